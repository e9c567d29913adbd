// SwiGLU over the rows that the fused gate and up product writes, [T, 2 F]:  y = silu(gate) * up,  silu(x) = x * sigma(x).
//
//   swiglu_forward     y [T, F]
//   swiglu_backward    gate_up becomes its own gradient:  d_up = dy * silu(gate),
//                      d_gate = dy * up * sigma * (1 + gate * (1 - sigma))
//
//   grid x = T, y = groups of columns; a thread owns eight columns.
#include "engine/rows.cuh"

extern "C" __global__ void swiglu_forward(const lg::Half* gate_up, lg::Half* y, int hidden) {
    using namespace lg;
    const int octets = hidden / kOctet, octet = blockIdx.y * blockDim.x + threadIdx.x;
    if (octet >= octets) return;
    const Half* row = gate_up + i64(blockIdx.x) * 2 * hidden;
    const Octet gate = load_octet(row, octet), up = load_octet(row, octets + octet);
    Octet out;
#pragma unroll
    for (int n = 0; n < kOctet; ++n) out.x[n] = gate.x[n] * sigmoid(gate.x[n]) * up.x[n];
    store_octet(y + i64(blockIdx.x) * hidden, octet, out);
}

extern "C" __global__ void swiglu_backward(lg::Half* gate_up, const lg::Half* d_y, int hidden) {
    using namespace lg;
    const int octets = hidden / kOctet, octet = blockIdx.y * blockDim.x + threadIdx.x;
    if (octet >= octets) return;
    Half* row = gate_up + i64(blockIdx.x) * 2 * hidden;
    Octet gate = load_octet(row, octet), up = load_octet(row, octets + octet);
    const Octet d = load_octet(d_y + i64(blockIdx.x) * hidden, octet);
#pragma unroll
    for (int n = 0; n < kOctet; ++n) {
        const float g = gate.x[n], sigma = sigmoid(g);
        gate.x[n] = d.x[n] * up.x[n] * sigma * (1.0f + g * (1.0f - sigma));
        up.x[n] = d.x[n] * g * sigma;
    }
    store_octet(row, octet, gate);
    store_octet(row, octets + octet, up);
}
