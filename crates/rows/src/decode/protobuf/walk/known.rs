//! Decodes messages that stand for a single value, such as `google.protobuf.Timestamp`, `google.type.Date` and decimals.

use std::fmt;
use std::io::Write as _;

use super::super::wire::Wire;
use super::{Broken, ProtobufWalk, low};
use crate::decode::narrow;
use crate::render;
use crate::schema::logical::in_micros;
use crate::schema::protobuf::{Known, MessageId};
use crate::value::{Flags, Kind, Slot};

impl ProtobufWalk<'_> {
    pub(super) fn well_known(&mut self, id: MessageId, known: Known, end: usize, depth: u32) -> Result<Slot, Broken> {
        let file = self.file;
        if known == Known::Wrapper {
            let field = &file.message(id).fields[0];
            let mut value = self.default(field.kind);
            while self.at < end {
                let (number, wire) = self.tag(end)?;
                if number == field.number {
                    value = self.scalar(field.kind, wire, end)?;
                } else {
                    self.skip(wire, number, end, depth)?;
                }
            }
            return Ok(value);
        }
        match known {
            Known::Decimal | Known::VariableDecimal => return self.decimal(id, end, depth),
            Known::LatLng => return self.lat_lng(end, depth),
            _ => {}
        }
        let mut numbers = [0_u64; 5];
        while self.at < end {
            let (number, wire) = self.tag(end)?;
            match (number, wire) {
                (1..=4, Wire::Varint) => numbers[number as usize] = self.number(wire, end)?,
                _ => self.skip(wire, number, end, depth)?,
            }
        }
        match known {
            Known::Date => return Ok(self.date(numbers.map(low))),
            Known::TimeOfDay => return Ok(self.time_of_day(numbers.map(low))),
            _ => {}
        }
        let (seconds, nanos) = (numbers[1].cast_signed(), i64::from(low(numbers[2])));
        let micros = seconds.checked_mul(1_000_000).zip(in_micros(nanos, -1_000)).and_then(|(s, n)| s.checked_add(n));
        let Some(micros) = micros else {
            return self.fault("a time that is out of range");
        };
        if known == Known::Timestamp {
            return Ok(Slot::number(Kind::Instant, micros));
        }
        let start = self.fields.made.len();
        self.fields.made.extend_from_slice(&micros.to_be_bytes());
        self.fields.made.extend_from_slice(&[0; 8]);
        Ok(self.fields.made_slot(Kind::Span, Flags::BINARY, start))
    }

    /// Reads a decimal: its unscaled number in the bytes of the field `value`, and its scale in the field `scale`.
    fn decimal(&mut self, id: MessageId, end: usize, depth: u32) -> Result<Slot, Broken> {
        let file = self.file;
        let number_of =
            |name: &str| file.message(id).fields.iter().find(|field| field.name == name).map(|of| of.number);
        let (value, scale) = (number_of("value"), number_of("scale"));
        let mut unscaled = Slot::number(Kind::Decimal, 0);
        while self.at < end {
            let (number, wire) = self.tag(end)?;
            if Some(number) == value && wire == Wire::Len {
                let inner = self.len(wire, end)?;
                unscaled = Slot { start: narrow(self.at), len: narrow(inner - self.at), ..unscaled };
                self.at = inner;
            } else if Some(number) == scale && wire == Wire::Varint {
                unscaled.exponent = low(self.number(wire, end)?).saturating_neg();
            } else {
                self.skip(wire, number, end, depth)?;
            }
        }
        Ok(unscaled)
    }

    /// Renders a date as text. If the date lacks the year or the day, a column of type date rejects it, and the error shows it.
    fn date(&mut self, [_, year, month, day, _]: [i32; 5]) -> Slot {
        self.made_text(format_args!("{year:04}-{month:02}-{day:02}"))
    }

    /// Reads a time of day. An invalid one becomes text, which a column of type time rejects.
    fn time_of_day(&mut self, [_, hours, minutes, seconds, nanos]: [i32; 5]) -> Slot {
        let whole = (i64::from(hours) * 60 + i64::from(minutes)) * 60 + i64::from(seconds);
        let micros =
            whole.checked_mul(1_000_000).zip(in_micros(nanos.into(), -1_000)).map(|(whole, part)| whole + part);
        let is_time = (0..=24).contains(&hours)
            && (0..60).contains(&minutes)
            && (0..=60).contains(&seconds)
            && (0..1_000_000_000).contains(&nanos);
        match micros.filter(|micros| is_time && *micros <= 86_400_000_000) {
            Some(micros) => Slot::number(Kind::Clock, micros),
            None => self.made_text(format_args!("{hours:02}:{minutes:02}:{seconds:02}.{nanos:09}")),
        }
    }

    /// Reads a `google.type.LatLng`, and renders it as a JSON object with both coordinates. Protobuf omits a
    /// coordinate that is 0.
    fn lat_lng(&mut self, end: usize, depth: u32) -> Result<Slot, Broken> {
        let mut numbers = [0_f64; 2];
        while self.at < end {
            let (number, wire) = self.tag(end)?;
            match (number, wire) {
                (1 | 2, Wire::Fixed64) => {
                    numbers[number as usize - 1] = f64::from_le_bytes(self.fixed(wire, Wire::Fixed64, end)?);
                }
                _ => self.skip(wire, number, end, depth)?,
            }
        }
        let start = self.fields.made.len();
        for (name, number) in [(&b"{\"latitude\":"[..], numbers[0]), (b",\"longitude\":", numbers[1])] {
            self.fields.made.extend_from_slice(name);
            let slot = Slot { mantissa: number.to_bits(), ..Slot::number(Kind::Float, 0) };
            render::json(&slot.of(&[]), &mut self.fields.made);
        }
        self.fields.made.push(b'}');
        Ok(self.fields.made_slot(Kind::Object, Flags::NONE, start))
    }

    fn made_text(&mut self, text: fmt::Arguments<'_>) -> Slot {
        let start = self.fields.made.len();
        // Writing into a vector can't fail.
        let _taken = self.fields.made.write_fmt(text);
        self.fields.made_slot(Kind::Text, Flags::NONE, start)
    }
}
