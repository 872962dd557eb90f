//! Two classes of requests, and which of them is next: pure.
//!
//! Invariant: a request of the batch class is taken only when no interactive one waits, except that it never waits for more than [`RUN`] turns of
//! interactive ones.

/// Turns of the interactive class in a row, while requests of the batch class wait, after which the batch class has one.
pub const RUN: u32 = 16;

/// How urgent a request is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Class {
    /// Somebody waits for the answer.
    #[default]
    Interactive,
    /// The answer is wanted eventually; interactive requests of any tenant go first.
    Batch,
}

/// Whose turn it is; one interactive turn after the other, and now and then one of the batch class.
#[derive(Debug, Default)]
pub struct Turns {
    /// Interactive turns since one of the batch class was possible.
    run: u32,
}

impl Turns {
    /// The classes in the order in which they are asked for a request.
    pub fn order(&self) -> [Class; 2] {
        if self.run >= RUN {
            [Class::Batch, Class::Interactive]
        } else {
            [Class::Interactive, Class::Batch]
        }
    }

    /// Notes which class had a turn, and whether requests of the batch class wait.
    pub fn had(&mut self, class: Class, is_batch_waiting: bool) {
        self.run = match class {
            Class::Interactive if is_batch_waiting => self.run.saturating_add(1),
            Class::Interactive | Class::Batch => 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_class_has_a_turn_after_sixteen_others_that_it_waited_for() {
        let mut turns = Turns::default();
        for _ in 0..100 {
            turns.had(Class::Interactive, false);
            assert_eq!(turns.order()[0], Class::Interactive);
        }
        for had in 1..=RUN {
            turns.had(Class::Interactive, true);
            let is_due = turns.order()[0] == Class::Batch;
            assert_eq!(is_due, had == RUN, "after {had}");
        }
        turns.had(Class::Batch, true);
        assert_eq!(turns.order()[0], Class::Interactive);
    }
}
