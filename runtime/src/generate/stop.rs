//! Stop texts in a stream: what might be the beginning of one is held back until it is clear.

/// Looks for stop texts in text that comes in pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StopFilter {
    stops: Vec<String>,
    held: String,
}

/// What a piece of text led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// Text that is safe to show.
    pub text: String,
    /// Whether a stop text was found; the text ends before it.
    pub stopped: bool,
}

impl StopFilter {
    /// A filter for these texts; empty ones never stop anything.
    pub fn new(stops: &[String]) -> StopFilter {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        StopFilter { stops, held: String::new() }
    }

    /// Adds a piece.
    pub fn push(&mut self, piece: &str) -> Passed {
        self.held.push_str(piece);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return Passed { text: std::mem::take(&mut self.held), stopped: true };
        }
        let begins = |at: usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..]));
        let safe =
            self.held.char_indices().map(|(at, _)| at).find(|&at| begins(at)).unwrap_or(self.held.len());
        let rest = self.held.split_off(safe);
        Passed { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// What was held back when no more comes.
    pub fn finish(self) -> String {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_text_across_pieces_is_never_shown() {
        let mut filter = StopFilter::new(&["END".into(), String::new()]);
        let passed: Vec<Passed> = ["a E", "N", "E", "ND b"].iter().map(|piece| filter.push(piece)).collect();
        let text: String = passed.iter().map(|p| p.text.as_str()).collect();
        assert_eq!((text.as_str(), passed[3].stopped), ("a EN", true));
        let mut filter = StopFilter::new(&["END".into()]);
        assert_eq!(filter.push("xEN").text, "x");
        assert_eq!(filter.finish(), "EN");
    }
}
