//! Collects the fields of a sample's rows in a tree, and counts the values of each field. Pure.

use serde_json::Value as Json;
use tidegate_rows::json::members::{Elements, Members};
use tidegate_rows::schema::Outline;
use tidegate_rows::value::{Kind, Value};

use super::shape;
use super::values::{Seen, Typed};

/// The most members that are remembered per object. The limit keeps generated names from filling the memory.
const MEMBERS_MAX: usize = 400;
/// How many levels of nested objects and arrays are read.
const DEPTH_MAX: usize = 10;

/// A field, with counts of its values. `element` is a further node that stands for the elements of all arrays in the field.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) seen: Seen,
    /// The type that the record's schema declares for this field. `None` if there is no such schema.
    pub(super) declared: Option<Typed>,
    /// The members, in the order in which they first occurred.
    pub(super) members: Vec<(String, Node)>,
    pub(super) element: Option<Box<Node>>,
}

impl Node {
    /// Adds a row, which is a JSON object. `schema` is the Kafka Connect schema that describes it, if there is one.
    pub(super) fn row(&mut self, object: &[u8], schema: Option<&Json>) {
        self.seen.present += 1;
        self.seen.objects += 1;
        for (name, value) in Members::of(object) {
            let Some(member) = self.member(&name) else { continue };
            if let (0, Some(schema)) = (member.seen.present, schema) {
                member.declared = shape::declared(schema, &name).map(Typed::plain);
            }
            member.add(&value, 1);
        }
    }

    /// Adds a row of which only the schema is known.
    pub(super) fn outlined(&mut self, outline: &Outline) {
        self.seen.present += 1;
        match outline {
            Outline::Type(name) => self.declared = Some(Typed::plain(*name)),
            Outline::Record(fields) => {
                self.seen.objects += 1;
                for (name, field) in fields {
                    if let Some(member) = self.member(name) {
                        member.outlined(field);
                    }
                }
            }
            Outline::Array(element) => {
                self.seen.arrays += 1;
                match &**element {
                    Outline::Record(_) => self.element.get_or_insert_default().outlined(element),
                    Outline::Type(name) => self.declared = Some(Typed::plain(*name).array()),
                    Outline::Array(_) => self.declared = Some(Typed::plain("jsonb")),
                }
            }
        }
    }

    fn add(&mut self, value: &Value<'_>, depth: usize) {
        self.seen.add(value);
        if depth >= DEPTH_MAX {
            return;
        }
        match value.kind {
            Kind::Object => {
                for (name, value) in Members::of(value.raw) {
                    if let Some(member) = self.member(&name) {
                        member.add(&value, depth + 1);
                    }
                }
            }
            Kind::Array => {
                let element = self.element.get_or_insert_default();
                Elements::of(value.raw).for_each(|value| element.add(&value, depth + 1));
            }
            _ => {}
        }
    }

    fn member(&mut self, name: &str) -> Option<&mut Self> {
        let at = self.members.iter().position(|(known, _)| known == name).or_else(|| {
            (self.members.len() < MEMBERS_MAX).then(|| {
                self.members.push((name.to_owned(), Self::default()));
                self.members.len() - 1
            })
        });
        self.members.get_mut(at?).map(|(_, member)| member)
    }

    /// Returns whether a type is known for the field's column, either from the schema or from a value other than null.
    pub(super) fn has_type(&self) -> bool {
        self.declared.is_some() || self.seen.with_value() > 0
    }

    /// Returns the type of a column for this field: the declared type, or else one that accepts every value that was seen.
    pub(super) fn typed(&self, name: &str) -> Typed {
        if let Some(declared) = &self.declared {
            return declared.clone();
        }
        if let Some(scalar) = self.seen.scalar(name) {
            return scalar;
        }
        let elements = self.element.as_deref().filter(|element| element.seen.with_value() > 0);
        let is_array = self.seen.arrays + self.seen.nulls == self.seen.present;
        let scalar = elements.filter(|_| is_array).and_then(|element| element.seen.scalar(""));
        scalar.map_or_else(|| Typed::plain("jsonb"), |element| element.array())
    }

    /// Returns how many scalar fields this object has, including those of nested objects.
    pub(super) fn leaves(&self) -> usize {
        let of = |node: &Self| match node.seen.objects {
            _ if node.seen.arrays > 0 => 0,
            0 => 1,
            _ => node.leaves(),
        };
        self.members.iter().map(|(_, member)| of(member)).sum()
    }
}
