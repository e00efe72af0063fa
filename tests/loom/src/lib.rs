//! What races for a call: an answer, a cancel, its deadline, the end of its cache, the end of its queue, a carrier that
//! vanishes. In every order it is completed once, and what is said of a cancelled write is true.

#[path = "../../../src/completion/mod.rs"]
mod completion;
#[path = "../../../src/deadline.rs"]
mod deadline;
#[path = "../../../src/error.rs"]
mod error;
#[path = "../../../src/fork.rs"]
mod fork;
#[path = "../../../src/op.rs"]
mod op;
#[cfg(test)]
#[path = "../../../src/completion/tests/outcome.rs"]
mod outcome;
#[path = "../../../src/reserve.rs"]
mod reserve;
#[path = "../../../src/sys.rs"]
mod sys;
#[path = "../../../src/value.rs"]
mod value;

#[cfg(test)]
mod model;
