//! Reads tags, numbers and lengths, and skips fields. Counts the steps; see `STEPS_PER_BYTE`.

use super::super::wire::{self, Wire};
use super::{Broken, ProtobufWalk};
use crate::schema::MAX_DEPTH;

impl ProtobufWalk<'_> {
    #[inline]
    pub(super) fn step(&mut self) -> Result<(), Broken> {
        if self.steps == 0 {
            return self.fault("it takes more steps than its size allows");
        }
        self.steps -= 1;
        Ok(())
    }

    #[inline]
    pub(super) fn tag(&mut self, end: usize) -> Result<(u32, Wire), Broken> {
        self.step()?;
        match wire::tag(&self.bytes[..end], &mut self.at) {
            Some(tag) => Ok(tag),
            None => self.fault("no field begins here"),
        }
    }

    #[inline]
    pub(super) fn number(&mut self, wire: Wire, end: usize) -> Result<u64, Broken> {
        if wire != Wire::Varint {
            return self.fault("a field whose type isn't its schema's");
        }
        match wire::varint(&self.bytes[..end], &mut self.at) {
            Some(number) => Ok(number),
            None => self.fault("a number that doesn't end, or is beyond 64 bits"),
        }
    }

    #[inline]
    pub(super) fn fixed<const N: usize>(&mut self, wire: Wire, wanted: Wire, end: usize) -> Result<[u8; N], Broken> {
        if wire != wanted {
            return self.fault("a field whose type isn't its schema's");
        }
        match self.bytes[..end].get(self.at..).and_then(|rest| rest.first_chunk::<N>()) {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => self.fault("it ends too early"),
        }
    }

    /// Reads the length in front of a field's bytes. Returns the index of the first byte after the field.
    #[inline]
    pub(super) fn len(&mut self, wire: Wire, end: usize) -> Result<usize, Broken> {
        if wire != Wire::Len {
            return self.fault("a field whose type isn't its schema's");
        }
        let len = wire::varint(&self.bytes[..end], &mut self.at).and_then(|len| usize::try_from(len).ok());
        match len.and_then(|len| self.at.checked_add(len)).filter(|inner| *inner <= end) {
            Some(inner) => Ok(inner),
            None => self.fault("it ends too early"),
        }
    }

    /// Skips a whole field. The field's tag is at the current position.
    pub(super) fn pass(&mut self, end: usize, depth: u32) -> Result<(), Broken> {
        let (number, wire) = self.tag(end)?;
        self.skip(wire, number, end, depth)
    }

    /// Skips the value of a field whose tag has been read.
    #[inline]
    pub(super) fn skip(&mut self, wire: Wire, number: u32, end: usize, depth: u32) -> Result<(), Broken> {
        match wire {
            Wire::Varint => drop(self.number(wire, end)?),
            Wire::Fixed64 => drop(self.fixed::<8>(wire, wire, end)?),
            Wire::Fixed32 => drop(self.fixed::<4>(wire, wire, end)?),
            Wire::Len => self.at = self.len(wire, end)?,
            Wire::Group => return self.group(number, end, depth + 1),
            Wire::GroupEnd => return self.fault("a group's end without its beginning"),
        }
        Ok(())
    }

    /// Skips a group of proto2, which has no length.
    #[cold]
    fn group(&mut self, number: u32, end: usize, depth: u32) -> Result<(), Broken> {
        if depth >= MAX_DEPTH {
            return self.fault("it is nested too deep");
        }
        loop {
            let (inner, wire) = self.tag(end)?;
            if wire == Wire::GroupEnd {
                return if inner == number { Ok(()) } else { self.fault("another group's end") };
            }
            self.skip(wire, inner, end, depth)?;
        }
    }
}
