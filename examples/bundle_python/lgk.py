"""Reads a LongGen kernel bundle (.lgk). Needs nothing but Python; `docs/bundle.md` explains the format."""

import json
import struct
import zlib

MAGIC, VERSION = b"\x89LGK\r\n\x1a\n", 1
SPAN = "QQII"  # offset, bytes, CRC-32, zero
HEADER = struct.Struct("<8sIIQ" + SPAN + SPAN + "IIII")
RECORD = struct.Struct("<64s64s24s16s8s 4I4I3I3I3I3I 30I" + SPAN + SPAN)


class BundleError(Exception):
    """The file is no bundle, or it is damaged."""


class Kernel:
    """One entry point: names, sizes, and the manifest, which says how to launch it."""

    def __init__(self, fields, image, manifest):
        text = lambda raw: raw.split(b"\0", 1)[0].decode()
        self.name, self.pattern, self.pass_name, self.target, self.dtype = map(text, fields[:5])
        self.major, self.minor, exact, is_ptx, self.head_dim, softcap, sink_logit, listed = fields[5:13]
        self.exact, self.is_ptx, self.softcap, self.sink_logit = bool(exact), bool(is_ptx), bool(softcap), bool(sink_logit)
        self.listed = bool(listed)
        self.step, self.steps = fields[13:15]
        self.image, self.manifest = image, manifest
        self.entry = manifest["kernels"][self.step]

    def rank(self, major, minor):
        """How well it suits a device: 0 not at all; machine code before PTX, later architectures before earlier ones."""
        own = (self.major, self.minor)
        if self.exact:
            return 1_000_000 if own == (major, minor) and not self.is_ptx else 0
        if own > (major, minor):
            return 0
        if self.is_ptx:
            return self.major * 100 + self.minor
        return 100_000 + self.minor if self.major == major else 0


class Bundle:
    """A whole file, every checksum checked."""

    def __init__(self, data):
        if data[:8] != MAGIC:
            raise BundleError("it is no kernel bundle")
        if len(data) < HEADER.size:
            raise BundleError("it was cut short")
        _, version, count, size, *spans, index_crc, _params_crc, _zero, header_crc = HEADER.unpack_from(data)
        if version != VERSION:
            raise BundleError(f"it has format {version}, this program reads {VERSION}")
        if zlib.crc32(data[: HEADER.size - 4]) != header_crc:
            raise BundleError("its header is damaged")
        index = data[HEADER.size : HEADER.size + count * RECORD.size]
        if size != len(data) or len(index) != count * RECORD.size:
            raise BundleError("it was cut short, or added to")
        if zlib.crc32(index) != index_crc:
            raise BundleError("its index is damaged")

        def part(offset, length, crc, _zero, what):
            found = data[offset : offset + length]
            if len(found) != length or zlib.crc32(found) != crc:
                raise BundleError(f"{what} is damaged")
            return found

        self.info = json.loads(part(*spans[:4], "its description"))
        self.c_header = part(*spans[4:], "its C header").decode()
        self.kernels = []
        for number, fields in enumerate(RECORD.iter_unpack(index)):
            image = part(*fields[-8:-4], f"the image of kernel {number}")
            manifest = json.loads(part(*fields[-4:], f"the manifest of kernel {number}"))
            self.kernels.append(Kernel(fields, image, manifest))

    def find(self, pattern, pass_name, head_dim, dtype, capability):
        """The kernels of a pass that suit a device best, in launch order; KeyError for none.

        Kernels with `listed` are passed over: only the Rust runtime makes their lists."""
        wanted = (pattern, pass_name, head_dim, dtype)
        fits = [k for k in self.kernels if not k.listed and (k.pattern, k.pass_name, k.head_dim, k.dtype) == wanted]
        best = max(fits, key=lambda k: k.rank(*capability), default=None)
        if best is None or best.rank(*capability) == 0:
            raise KeyError(f"no {pass_name} kernel of {pattern!r}, D {head_dim}, {dtype} for {capability}")
        same = [k for k in fits if (k.target, k.is_ptx) == (best.target, best.is_ptx)]
        return sorted(same, key=lambda k: k.step)


def load(path):
    """Reads a file; BundleError or OSError."""
    with open(path, "rb") as file:
        return Bundle(file.read())
