//! Turns bytes into random choices. The same bytes always lead to the same choices, in a test as well as in a fuzzer.
#![allow(dead_code)] // each fuzzer uses its part

use serde_json::{Map, Value, json};

/// The remaining bytes. When none are left, each choice is 0.
pub struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the next bytes: as many as are left, but at most `max`.
    pub fn bytes(&mut self, max: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(max.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn pick<'b>(&mut self, list: &[&'b str]) -> &'b str {
        list[self.below(list.len())]
    }

    /// A random text of at most 11 bytes. Invalid UTF-8 is replaced.
    pub fn text(&mut self) -> String {
        let n = self.below(12);
        String::from_utf8_lossy(self.bytes(n)).into_owned()
    }

    /// A random JSON value that has at most `depth` levels.
    pub fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 8 } else { 11 }) {
            0 => Value::Null,
            1 => json!(self.below(2) == 0),
            2 => json!(self.byte() as i8),
            3 => json!(f64::from(self.byte() as i8) / 4.0),
            4 => [json!(i64::MAX), json!(i64::MIN), json!(u64::MAX), json!(1e300), json!(-0.0)][self.below(5)].clone(),
            5 => json!("x".repeat(1 << self.below(18))),
            6 | 7 => json!(self.text()),
            8 => {
                // Either many copies of a small value, or two copies of a larger one.
                let (value, n) = (self.value(depth - 1), 1 << self.below(10));
                json!(vec![value.clone(); if value.to_string().len() < 100 { n } else { 2 }])
            }
            9 => Value::Array((0..self.below(5)).map(|_| self.value(depth - 1)).collect()),
            _ => {
                let pairs = (0..self.below(5)).map(|_| (self.text(), self.value(depth - 1)));
                Value::Object(pairs.collect::<Map<_, _>>())
            }
        }
    }
}

/// Cuts bytes into pieces. The seed decides their lengths; with seed 0, there is only one piece.
pub fn pieces(bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    if seed == 0 {
        return vec![bytes];
    }
    let (mut found, mut rest, mut state) = (Vec::new(), bytes, u32::from(seed));
    while !rest.is_empty() {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let n = match state >> 24 & 7 {
            0..4 => 1 + (state >> 16 & 3) as usize,
            4..7 => 1 + (state >> 16 & 63) as usize,
            _ => 1 + (state >> 12 & 4095) as usize,
        };
        let (piece, after) = rest.split_at(n.min(rest.len()));
        found.push(piece);
        rest = after;
    }
    found
}
