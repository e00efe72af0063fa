//! Every time that a test lets time pass. No outcome may depend on how long that is beyond the least that is said here:
//! a busy machine makes it longer, and never shorter.

use std::thread;
use std::time::Duration;

/// Until every link of a cache counts as idle: one that was used longer than 100 µs ago is revalidated before it is
/// used again.
pub fn let_links_go_idle() {
    thread::sleep(Duration::from_millis(20));
}

/// The URL option that has a link asked PING before it is used again, once [`let_links_need_a_ping`] has passed.
pub const HEALTH_CHECK: &str = "health_check_interval=0.05";

/// Until every link of a cache with [`HEALTH_CHECK`] has been idle for longer than that.
pub fn let_links_need_a_ping() {
    thread::sleep(Duration::from_millis(100));
}

/// Gives threads that were just started the time to make their calls, and links the time to be made. How much a test
/// provokes depends on it, and nothing that it asserts.
pub fn let_calls_gather() {
    thread::sleep(Duration::from_millis(50));
}

/// Between what is called now and what is called next, so that their deadlines are that far apart.
pub fn let_deadlines_part(span: Duration) {
    thread::sleep(span);
}

/// Between two provocations, or for as long as one lasts: whether it meets a call at a bad moment is left to chance,
/// and tried often.
pub fn provoke_for(span: Duration) {
    thread::sleep(span);
}

/// Between two looks of who polls.
pub fn before_the_next_look() {
    thread::sleep(Duration::from_millis(2));
}
