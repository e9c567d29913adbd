//! A candidate: the kernels of a pass with their schedules.

use std::fmt;
use std::str::FromStr;

use crate::schedule::{ParseScheduleError, Schedule};
use crate::spec::Pass;
use crate::target::Family;

/// One kernel of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlannedKernel {
    /// What it computes.
    pub pass: Pass,
    /// Whose template it comes from.
    pub family: Family,
    /// Its tiles.
    pub schedule: Schedule,
}

/// The kernels of a pass, in launch order. Prints and parses as `forward sm_90a tile_m=.. ...; ...`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GpuPlan {
    /// At least one.
    pub kernels: Vec<PlannedKernel>,
}

/// Why a text is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePlanError {
    /// A part does not start with a pass and a family.
    #[error("`{0}` does not start with a pass and a family, like `forward sm_90a`")]
    Kernel(String),
    /// The schedule of a part.
    #[error(transparent)]
    Schedule(#[from] ParseScheduleError),
}

impl fmt::Display for GpuPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, PlannedKernel { pass, family, schedule }) in self.kernels.iter().enumerate() {
            let separator = if n > 0 { "; " } else { "" };
            write!(f, "{separator}{pass} {family} {schedule}")?;
        }
        Ok(())
    }
}

impl FromStr for GpuPlan {
    type Err = ParsePlanError;

    fn from_str(text: &str) -> Result<GpuPlan, ParsePlanError> {
        let kernel = |part: &str| {
            let wrong = || ParsePlanError::Kernel(part.trim().to_owned());
            let mut words = part.trim().splitn(3, ' ');
            let (pass, family) = (words.next().ok_or_else(wrong)?, words.next().ok_or_else(wrong)?);
            let pass = Pass::ALL.into_iter().find(|known| known.name() == pass).ok_or_else(wrong)?;
            let families = [Family::Sm80, Family::Sm90];
            let family = families.into_iter().find(|known| known.to_string() == family).ok_or_else(wrong)?;
            let schedule = words.next().ok_or_else(wrong)?.parse()?;
            Ok(PlannedKernel { pass, family, schedule })
        };
        Ok(GpuPlan { kernels: text.split(';').map(kernel).collect::<Result<_, ParsePlanError>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let schedule = Schedule { tile_m: 128, tile_n: 128, stages: 2, threads: 384, consumers: 2 };
        let first = PlannedKernel { pass: Pass::BackwardFused, family: Family::Sm90, schedule };
        let second = PlannedKernel { pass: Pass::BackwardConvertDq, ..first };
        let plan = GpuPlan { kernels: vec![first, second] };
        assert_eq!(plan.to_string().parse(), Ok(plan));
        assert!("forward".parse::<GpuPlan>().is_err() && "backwards sm_80 x".parse::<GpuPlan>().is_err());
    }
}
