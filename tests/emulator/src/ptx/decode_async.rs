//! Statements whose work is done some time later: copies, the barriers that tell of them, products of a warpgroup.

use super::arguments::Argument;
use super::decode::Call;
use super::{BulkCopy, Op, Operand, Type, WgmmaA};

impl Call<'_> {
    pub(super) fn copy(&self) -> Result<Op, String> {
        let constant = |index: usize| self.constant(index);
        match self.parts {
            ["cp", "async", "commit_group"] => Ok(Op::CopyCommit),
            ["cp", "async", "wait_group"] => Ok(Op::CopyWait { pending: constant(0)? }),
            ["cp", "async", "wait_all"] => Ok(Op::CopyWait { pending: 0 }),
            ["cp", "async", "bulk", "commit_group"] => Ok(Op::BulkCommit),
            ["cp", "async", "bulk", "wait_group"] => Ok(Op::BulkWait { pending: constant(0)?, read: false }),
            ["cp", "async", "bulk", "wait_group", "read"] => {
                Ok(Op::BulkWait { pending: constant(0)?, read: true })
            }
            ["cp", "async", "bulk", "tensor", "3d", "shared::cluster", "global", ..] => {
                let Some(Argument::Memory(map, coordinates)) = self.arguments.get(1) else {
                    return Err("the tensor is missing".to_owned());
                };
                let coordinates = coordinates[..].try_into().map_err(|_| "three coordinates are needed")?;
                Ok(Op::TensorLoad { to: self.address(0)?, map: *map, coordinates, barrier: self.address(2)? })
            }
            ["cp", "reduce", "async", "bulk", "global", "shared::cta", "bulk_group", "add", "f32"]
            | ["cp", "async", "bulk", "global", "shared::cta", "bulk_group"] => Ok(Op::Bulk(BulkCopy {
                to: self.address(0)?,
                from: self.address(1)?,
                bytes: self.one(2)?,
                adds: self.parts[1] == "reduce",
            })),
            ["cp", "async", "ca" | "cg", "shared" | "shared::cta", "global", ..] => {
                let bytes = constant(2)?;
                let valid = if self.arguments.len() > 3 { self.one(3)? } else { Operand::Constant(bytes) };
                Ok(Op::CopyAsync {
                    to: self.address(0)?,
                    from: self.address(1)?,
                    bytes: bytes as usize,
                    valid,
                })
            }
            _ => Err("this copy is not known here".to_owned()),
        }
    }

    pub(super) fn mbarrier(&self) -> Result<Op, String> {
        match self.parts {
            ["mbarrier", "init", ..] => {
                Ok(Op::BarrierInit { barrier: self.address(0)?, arrivals: self.one(1)? })
            }
            ["mbarrier", "arrive", "expect_tx", ..] => {
                Ok(Op::BarrierArrive { barrier: self.address(1)?, bytes: Some(self.one(2)?) })
            }
            ["mbarrier", "arrive", ..] if self.arguments.len() == 2 => {
                Ok(Op::BarrierArrive { barrier: self.address(1)?, bytes: None })
            }
            ["mbarrier", "try_wait" | "test_wait", "parity", ..] => {
                Ok(Op::BarrierTest { to: self.one(0)?, barrier: self.address(1)?, parity: self.one(2)? })
            }
            _ => Err("this barrier is not known here".to_owned()),
        }
    }

    pub(super) fn wgmma(&self) -> Result<Op, String> {
        match self.parts {
            ["wgmma", "fence", ..] => return Ok(Op::Together),
            ["wgmma", "commit_group", ..] => return Ok(Op::WgmmaCommit),
            ["wgmma", "wait_group", ..] => {
                return Ok(Op::WgmmaWait { pending: self.constant(0)? });
            }
            _ => {}
        }
        let shape = self.parts.iter().find_map(|part| part.strip_prefix("m64n")?.strip_suffix("k16"));
        let n = shape.and_then(|n| n.parse().ok()).ok_or("this shape is not known here")?;
        let half = if self.has("bf16") { Type::Bf16 } else { Type::F16 };
        let constant = |index: usize| self.one(index).map(|operand| operand == Operand::Constant(1));
        let (a, b_transposed) = match self.arguments.get(1) {
            Some(Argument::Vector(_)) => (WgmmaA::Registers(self.exactly(1)?), constant(6)?),
            _ => (WgmmaA::Shared { descriptor: self.one(1)?, transposed: constant(6)? }, constant(7)?),
        };
        if !(constant(4)? && constant(5)?) {
            return Err("negated operands are not known here".to_owned());
        }
        Ok(Op::Wgmma {
            half,
            n,
            sums: self.several(0)?,
            a,
            b: self.one(2)?,
            b_transposed,
            adds: self.one(3)?,
        })
    }
}
