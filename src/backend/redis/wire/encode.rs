//! RESP requests: arrays of bulk strings (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).

use std::io::IoSlice;

use crate::error::Result;
use crate::reserve as memory;

/// A request on its way out: what is copied, and large values that are sent from where the caller keeps them.
pub struct Outbox<'o, 'a> {
    pub bytes: &'o mut Vec<u8>,
    /// `None`: everything is copied.
    pub borrowed: Option<&'o mut Vec<BorrowedSlice<'a>>>,
}

/// Bytes of the caller's that belong before the byte `at` of what was copied.
pub struct BorrowedSlice<'a> {
    pub at: usize,
    pub bytes: &'a [u8],
}

/// A value from this size on is not copied: below, a copy costs less than a slice more to send.
pub const BORROWED_FROM: usize = 16 << 10;

/// The most slices that are sent at once.
const MOST_SLICES: usize = 64;

/// What is next of a request of which `skip` bytes have gone.
pub fn io_slices<'a>(
    bytes: &'a [u8],
    borrowed: &[BorrowedSlice<'a>],
    mut skip: usize,
) -> Vec<IoSlice<'a>> {
    let mut slices = Vec::with_capacity(MOST_SLICES.min(2 * borrowed.len() + 1));
    let mut at = 0;
    let mut add = |slice: &'a [u8]| {
        let passed = skip.min(slice.len());
        skip -= passed;
        if passed < slice.len() && slices.len() < MOST_SLICES {
            slices.push(IoSlice::new(&slice[passed..]));
        }
    };
    for slice in borrowed {
        add(&bytes[at..slice.at]);
        add(slice.bytes);
        at = slice.at;
    }
    add(&bytes[at..]);
    slices
}

impl<'a> Outbox<'_, 'a> {
    /// How much of a value is copied.
    #[inline]
    pub fn copied(&self, value: &[u8]) -> usize {
        if self.borrowed.is_some() && value.len() >= BORROWED_FROM { 0 } else { value.len() }
    }

    /// Appends arguments that are written already.
    pub fn arguments(&mut self, written: &'a [u8]) -> Result<()> {
        const WHAT: &str = "memory for the request";
        match &mut self.borrowed {
            Some(borrowed) => {
                memory::try_reserve(*borrowed, 1, WHAT)?;
                borrowed.push(BorrowedSlice { at: self.bytes.len(), bytes: written });
            }
            None => {
                memory::try_reserve(self.bytes, written.len(), WHAT)?;
                self.bytes.extend_from_slice(written);
            }
        }
        Ok(())
    }

    /// Appends an argument that may be large.
    #[inline(always)]
    pub fn value(&mut self, value: &'a [u8]) -> Result<()> {
        match &mut self.borrowed {
            Some(borrowed) if value.len() >= BORROWED_FROM => {
                length(self.bytes, value.len());
                memory::try_reserve(*borrowed, 1, "memory for the request")?;
                borrowed.push(BorrowedSlice { at: self.bytes.len(), bytes: value });
                self.bytes.extend_from_slice(b"\r\n");
            }
            _ => argument(self.bytes, value),
        }
        Ok(())
    }
}

/// The most bytes that framing adds to one argument: `$`, twenty digits, two CRLF.
const FRAMING: usize = 25;

/// Makes room for a command or a batch of `arguments` arguments of `bytes` bytes in all.
#[inline]
pub fn reserve(out: &mut Vec<u8>, arguments: usize, bytes: usize) -> Result<()> {
    let framing = arguments.saturating_add(2).saturating_mul(FRAMING);
    memory::try_reserve(out, bytes.saturating_add(framing), "memory for the request")
}

pub fn command(out: &mut Vec<u8>, name: &[u8], arguments: usize) {
    long_length(out, b'*', arguments as u64 + 1);
    argument(out, name);
}

/// Appends one command of plain arguments.
pub fn words(out: &mut Vec<u8>, words: &[&[u8]]) {
    if let [name, arguments @ ..] = words {
        command(out, name, arguments.len());
        for word in arguments {
            argument(out, word);
        }
    }
}

/// What comes before an argument of that length.
pub fn bulk_head(out: &mut Vec<u8>, len: usize) {
    long_length(out, b'$', len as u64);
}

#[inline(always)]
pub fn argument(out: &mut Vec<u8>, bytes: &[u8]) {
    length(out, bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

#[inline(always)]
pub fn prefixed(out: &mut Vec<u8>, prefix: &[u8], key: &[u8]) {
    length(out, prefix.len() + key.len());
    if !prefix.is_empty() {
        out.extend_from_slice(prefix);
    }
    out.extend_from_slice(key);
    out.extend_from_slice(b"\r\n");
}

pub fn integer(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0; 20];
    let at = write_digits(&mut digits, number.unsigned_abs());
    let sign = usize::from(number < 0);
    length(out, digits.len() - at + sign);
    out.extend_from_slice(&b"-"[..sign]);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// Room for a request as most are.
pub const SHORT: usize = 512;

/// What is left of room that does not grow. A request that fits is written in a fraction of the instructions that a
/// vector takes, which asks at every piece whether it must grow. Each piece: `None` where there is no room for it.
pub struct Short<'a>(&'a mut [u8]);

impl<'a> Short<'a> {
    pub fn new(room: &'a mut [u8; SHORT]) -> Self {
        Self(room)
    }

    /// How much has been written.
    pub fn written(&self) -> usize {
        SHORT - self.0.len()
    }

    #[inline(always)]
    pub fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let (here, rest) = std::mem::take(&mut self.0).split_at_mut_checked(bytes.len())?;
        here.copy_from_slice(bytes);
        self.0 = rest;
        Some(())
    }

    /// Written as eight bytes, as by [`length`].
    #[inline(always)]
    fn length(&mut self, number: usize) -> Option<()> {
        // As one word, which is one load.
        let line = u64::from_le_bytes(*LINES.get(number)?);
        let room = std::mem::take(&mut self.0);
        *room.first_chunk_mut()? = line.to_le_bytes();
        self.0 = room.get_mut((line >> 56) as usize..)?;
        Some(())
    }

    #[inline(always)]
    pub fn prefixed(&mut self, prefix: &[u8], key: &[u8]) -> Option<()> {
        self.length(prefix.len() + key.len())?;
        if !prefix.is_empty() {
            self.put(prefix)?;
        }
        self.put(key)?;
        self.put(b"\r\n")
    }

    #[inline(always)]
    pub fn argument(&mut self, bytes: &[u8]) -> Option<()> {
        self.length(bytes.len())?;
        self.put(bytes)?;
        self.put(b"\r\n")
    }

    pub fn integer(&mut self, number: i64) -> Option<()> {
        let mut digits = [0; 20];
        let at = write_digits(&mut digits, number.unsigned_abs());
        let sign = usize::from(number < 0);
        self.length(digits.len() - at + sign)?;
        self.put(&b"-"[..sign])?;
        self.put(&digits[at..])?;
        self.put(b"\r\n")
    }
}

/// The lines of the lengths below a thousand, each followed by zeros and, in the last byte, by how long it is.
static LINES: [[u8; 8]; 1000] = {
    let mut lines = [[0; 8]; 1000];
    let mut number = 0;
    while number < lines.len() {
        let mut line = [b'$', 0, 0, 0, 0, 0, 0, 0];
        let mut at = 1;
        let mut place = if number < 10 {
            1
        } else if number < 100 {
            10
        } else {
            100
        };
        while place > 0 {
            line[at] = b'0' + (number / place % 10) as u8;
            at += 1;
            place /= 10;
        }
        line[at] = b'\r';
        line[at + 1] = b'\n';
        line[7] = at as u8 + 2;
        lines[number] = line;
        number += 1;
    }
    lines
};

/// Lengths are mostly short. The line of such a one is appended as eight bytes, which is one store, and those that are
/// too many are taken back.
#[inline(always)]
fn length(out: &mut Vec<u8>, number: usize) {
    match LINES.get(number) {
        Some(line) => {
            let end = out.len() + usize::from(line[7]);
            out.extend_from_slice(line);
            out.truncate(end);
        }
        None => long_length(out, b'$', number as u64),
    }
}

#[inline(never)]
fn long_length(out: &mut Vec<u8>, kind: u8, number: u64) {
    let mut digits = [0; 20];
    let at = write_digits(&mut digits, number);
    out.push(kind);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// Writes `number` at the end of `digits`; the answer is where it starts.
fn write_digits(digits: &mut [u8; 20], mut number: u64) -> usize {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut out = Vec::new();
        reserve(&mut out, 3, 9).unwrap();
        command(&mut out, b"SET", 3);
        prefixed(&mut out, b"p:", b"k");
        argument(&mut out, b"");
        integer(&mut out, i64::MIN);
        assert_eq!(
            out,
            b"*4\r\n$3\r\nSET\r\n$3\r\np:k\r\n$0\r\n\r\n$20\r\n-9223372036854775808\r\n"
        );
    }

    #[test]
    fn integers_of_every_length() {
        for number in [0, 1, 9, 10, 99, 100, 999, 1000, 12345, i64::MAX, -1, -10] {
            let mut out = Vec::new();
            integer(&mut out, number);
            let text = number.to_string();
            assert_eq!(out, format!("${}\r\n{text}\r\n", text.len()).as_bytes());
        }
    }

    #[test]
    fn lengths_of_every_length() {
        for number in [0, 9, 10, 42, 99, 100, 537, 999, 1000, 123_456] {
            let mut out = Vec::new();
            argument(&mut out, &vec![b'x'; number]);
            let text = format!("${number}\r\n{}\r\n", "x".repeat(number));
            assert_eq!(out, text.as_bytes());
        }
    }

    #[test]
    fn slices_of_a_request_begin_where_the_last_send_ended() {
        let value = [b'v'; 10];
        let borrowed = [2, 4].map(|at| BorrowedSlice { at, bytes: &value });
        let whole = [&b"ab"[..], &value, b"cd", &value, b"ef"].concat();
        for skip in 0..=whole.len() {
            let rest: Vec<u8> = io_slices(b"abcdef", &borrowed, skip)
                .iter()
                .flat_map(|slice| slice.to_vec())
                .collect();
            assert_eq!(rest, &whole[skip..]);
        }
        let many: Vec<_> = (0..100).map(|_| BorrowedSlice { at: 0, bytes: &value }).collect();
        assert_eq!(io_slices(b"", &many, 0).len(), MOST_SLICES);
    }

    #[test]
    fn room_that_cannot_be_had_is_an_error() {
        assert!(reserve(&mut Vec::new(), usize::MAX, usize::MAX).is_err());
    }
}
