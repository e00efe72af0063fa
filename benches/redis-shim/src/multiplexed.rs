//! The redis crate's multiplexed connection: a task for each slot, on tokio in the caller's own thread. With one worker
//! thread beside it a call takes two to three times the processor time.

use std::ffi::{CStr, c_char, c_long, c_void};
use std::slice;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisResult};
use tokio::runtime::{Builder, Runtime};

use crate::{Bytes, value};

struct Client {
    runtime: Runtime,
    connection: MultiplexedConnection,
}

/// The harness's `struct in_flight`, and its two functions.
#[derive(Clone, Copy)]
struct InFlight {
    in_flight: *mut c_void,
    start: unsafe extern "C" fn(*mut c_void, usize) -> bool,
    end: unsafe extern "C" fn(*mut c_void, usize, c_long),
}

/// SAFETY: the tasks run in the thread that lent it, while that is in `shim_multiplexed_keep_in_flight`.
unsafe impl Send for InFlight {}

impl InFlight {
    fn start(self, slot: usize) -> bool {
        unsafe { (self.start)(self.in_flight, slot) }
    }

    fn end(self, slot: usize, received: c_long) {
        unsafe { (self.end)(self.in_flight, slot, received) }
    }
}

fn open(url: &str) -> RedisResult<Client> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let client = redis::Client::open(url)?;
    // Its default of half a second for an answer is too little on a busy machine, and its documentation suggests more
    // than its default of 50 requests in the queue where there are many.
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(Some(Duration::from_secs(5)))
        .set_pipeline_buffer_size(1024);
    let connection =
        runtime.block_on(client.get_multiplexed_async_connection_with_config(&config))?;
    Ok(Client { runtime, connection })
}

async fn keep_slot_in_flight(
    mut connection: MultiplexedConnection,
    in_flight: InFlight,
    slot: usize,
    key: &'static [u8],
) {
    while in_flight.start(slot) {
        let received = value(redis::cmd("GET").arg(key).query_async(&mut connection).await);
        in_flight.end(slot, received);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn shim_multiplexed_open(url: *const c_char) -> *mut c_void {
    let url = unsafe { CStr::from_ptr(url) }.to_str().unwrap_or_default();
    open(url).map_or(std::ptr::null_mut(), |client| Box::into_raw(Box::new(client)).cast())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn shim_multiplexed_close(client: *mut c_void) {
    drop(unsafe { Box::from_raw(client.cast::<Client>()) });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn shim_multiplexed_keep_in_flight(
    client: *mut c_void,
    keys: *const Bytes,
    count: usize,
    in_flight: *mut c_void,
    start: unsafe extern "C" fn(*mut c_void, usize) -> bool,
    end: unsafe extern "C" fn(*mut c_void, usize, c_long),
) {
    let client = unsafe { &*client.cast::<Client>() };
    let in_flight = InFlight { in_flight, start, end };
    let all =
        unsafe { slice::from_raw_parts(keys, count) }.iter().enumerate().map(|(slot, key)| {
            // The keys outlive this call, and this call outlives the tasks.
            let key: &'static [u8] = unsafe { key.get() };
            client.runtime.spawn(keep_slot_in_flight(client.connection.clone(), in_flight, slot, key))
        });
    let all: Vec<_> = all.collect();
    client.runtime.block_on(async {
        for one in all {
            let _ = one.await;
        }
    });
}
