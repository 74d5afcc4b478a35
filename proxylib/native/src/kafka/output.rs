//! What leaves in one direction: ranges of what came in, untouched, and bytes of our own between them.

use std::ops::Range;

/// One run of bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Of the input that was given last.
    Pass(Range<usize>),
    Own(Vec<u8>),
}

/// Pieces in order.
#[derive(Debug, Default)]
pub struct Output {
    pub pieces: Vec<Piece>,
}

impl Output {
    /// Let a range of the input pass.
    pub fn pass(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        if let Some(Piece::Pass(last)) = self.pieces.last_mut() {
            if last.end == range.start {
                last.end = range.end;
                return;
            }
        }
        self.pieces.push(Piece::Pass(range));
    }

    /// Put in bytes.
    pub fn own(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.pieces.push(Piece::Own(bytes));
        }
    }

    /// Whether just the whole of an input of `length` bytes passes.
    pub fn is_whole(&self, length: usize) -> bool {
        match self.pieces.as_slice() {
            [] => length == 0,
            [Piece::Pass(range)] => *range == (0..length),
            _ => false,
        }
    }

    /// All pieces as bytes.
    pub fn bytes(&self, input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Pass(range) => out.extend(&input[range.clone()]),
                Piece::Own(bytes) => out.extend(bytes),
            }
        }
        out
    }
}
