//! The models. Each is run in every order that its threads can come in.

mod completion;
mod link;

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Every race of two or three that is known needs fewer.
    builder.preemption_bound = Some(3);
    builder.check(model);
}
