//! What a drain could not finish, handed back to its owner.

use std::{any::Any, fmt};

use serde::{Serialize, ser::SerializeStruct};

/// Items of one key of one system that were accepted and not finished.
pub struct Unfinished {
    /// Which system held them: `debouncer`, `followups`, `replies`, `lanes`.
    pub system: &'static str,
    /// Which of its kind, by the name that it was given.
    pub owner: String,
    /// Of which key: a chat, a session.
    pub key: String,
    items: Vec<Box<dyn Any + Send>>,
}

impl Unfinished {
    /// In the order in which they were accepted.
    pub fn new<T: Send + 'static>(
        system: &'static str,
        owner: impl Into<String>,
        key: impl Into<String>,
        items: impl IntoIterator<Item = T>,
    ) -> Self {
        let items = items.into_iter().map(|item| Box::new(item) as Box<dyn Any + Send>).collect();
        Self { system, owner: owner.into(), key: key.into(), items }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether all were taken out.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes out, in order, those of the type `T`.
    pub fn take<T: 'static>(&mut self) -> Vec<T> {
        let (mine, others): (Vec<_>, Vec<_>) =
            self.items.drain(..).partition(|item| item.is::<T>());
        self.items = others;
        mine.into_iter().filter_map(|item| item.downcast().ok()).map(|item| *item).collect()
    }
}

impl fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Unfinished {
    /// `debouncer inbox, telegram:ada: 3`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, {}: {}", self.system, self.owner, self.key, self.len())
    }
}

impl Serialize for Unfinished {
    /// Where it was and how much; the items are the owner's affair.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Unfinished", 4)?;
        fields.serialize_field("system", self.system)?;
        fields.serialize_field("owner", &self.owner)?;
        fields.serialize_field("key", &self.key)?;
        fields.serialize_field("items", &self.len())?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_taken_out_by_type_and_in_order() {
        let mut left = Unfinished::new("debouncer", "inbox", "ada", ["a", "b"]);
        assert_eq!(left.to_string(), "debouncer inbox, ada: 2");
        assert!(left.take::<u8>().is_empty());
        assert_eq!(left.take::<&str>(), ["a", "b"]);
        assert!(left.is_empty());
        let told = serde_json::to_string(&left).unwrap();
        assert_eq!(told, r#"{"system":"debouncer","owner":"inbox","key":"ada","items":0}"#);
    }
}
