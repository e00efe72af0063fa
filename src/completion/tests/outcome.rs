//! What a completion says, without its text. The model checker's package compares the same.

use crate::error::{Error, Kind, Result};
use crate::op::Answer;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Busy,
    Cancelled,
    Closed,
    Internal,
    NoMemory,
    TimedOut,
    Other,
}

impl Outcome {
    pub fn of(result: &Result<Answer>) -> Self {
        match result {
            Ok(_) => Outcome::Done,
            Err(error) => Self::of_error(error),
        }
    }

    pub fn of_error(error: &Error) -> Self {
        match error.kind {
            Kind::Busy => Outcome::Busy,
            Kind::Cancelled => Outcome::Cancelled,
            Kind::Closed => Outcome::Closed,
            Kind::Internal(_) => Outcome::Internal,
            Kind::NoMemory(_) => Outcome::NoMemory,
            Kind::Timeout(_) => Outcome::TimedOut,
            _ => Outcome::Other,
        }
    }
}
