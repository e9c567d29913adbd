//! From logits to a token.

use crate::random::Random;

/// How tokens are drawn. The filters apply in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the largest logit.
    pub temperature: f32,
    /// Only the `top_k` most likely tokens stay; 0 keeps all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability stay; 1 keeps all.
    pub top_p: f32,
    /// Only tokens at least this likely, relative to the most likely one, stay; 0 keeps all.
    pub min_p: f32,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };

    /// What is out of range, in words; `None` if nothing is.
    pub fn defect(&self) -> Option<String> {
        let wrong =
            |name: &str, range: &str, value: f32| Some(format!("`{name}` must be {range}, found {value}"));
        match *self {
            Sampling { temperature: t, .. } if !(t.is_finite() && t >= 0.0) => {
                wrong("temperature", "a finite number from 0 on", t)
            }
            Sampling { top_p: p, .. } if !(p > 0.0 && p <= 1.0) => wrong("top-p", "above 0 and at most 1", p),
            Sampling { min_p: p, .. } if !(0.0..=1.0).contains(&p) => wrong("min-p", "from 0 to 1", p),
            _ => None,
        }
    }

    /// Draws a token from logits (V). Equal logits count in the order of their tokens.
    pub fn draw(&self, logits: &[f32], random: &mut Random) -> u32 {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if self.temperature == 0.0 {
            return order.into_iter().min_by(by_logit).unwrap_or(0);
        }
        order.sort_unstable_by(by_logit);
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let largest = f64::from(logits[order[0] as usize]);
        let weight = |token: &u32| {
            ((f64::from(logits[*token as usize]) - largest) / f64::from(self.temperature)).exp()
        };
        let mut weights: Vec<f64> = order.iter().map(weight).collect();
        let mut kept = weights.len();
        if self.top_p < 1.0 {
            let enough = weights.iter().sum::<f64>() * f64::from(self.top_p);
            let mut sum = 0.0;
            let reached = weights.iter().position(|weight| {
                sum += weight;
                sum >= enough
            });
            kept = reached.map_or(kept, |last| last + 1);
        }
        weights.truncate(kept);
        weights.truncate(weights.partition_point(|&weight| weight >= f64::from(self.min_p)));
        let mut left = random.uniform() * weights.iter().sum::<f64>();
        let drawn = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        order[drawn.unwrap_or(weights.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 3.0, 2.0, 3.0, -1.0];
    const PLAIN: Sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };

    fn support(sampling: Sampling) -> Vec<u32> {
        let mut random = Random::new(5);
        let mut seen: Vec<u32> = (0..4000).map(|_| sampling.draw(&LOGITS, &mut random)).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    #[test]
    fn each_filter_keeps_what_it_says() {
        assert_eq!(support(Sampling::GREEDY), [1]);
        assert_eq!(support(PLAIN), [0, 1, 2, 3, 4]);
        assert_eq!(support(Sampling { top_k: 2, ..PLAIN }), [1, 3]);
        assert_eq!(support(Sampling { top_p: 0.5, ..PLAIN }), [1, 3]);
        assert_eq!(support(Sampling { top_p: 0.4, ..PLAIN }), [1]);
        assert_eq!(support(Sampling { min_p: 0.3, ..PLAIN }), [1, 2, 3]);
        assert_eq!(support(Sampling { min_p: 1.0, ..PLAIN }), [1, 3]);
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let mut random = Random::new(6);
        let hits = (0..20_000).filter(|_| PLAIN.draw(&LOGITS, &mut random) == 2).count();
        let sum: f64 = LOGITS.iter().map(|&logit| f64::from(logit).exp()).sum();
        assert!((hits as f64 / 20_000.0 - 2f64.exp() / sum).abs() < 0.01);
    }
}
