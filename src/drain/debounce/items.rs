//! An open batch.

/// Most batches are of one item: that needs no allocation before it flies.
#[derive(Debug)]
pub(super) enum Items<T> {
    One(T),
    /// Or none.
    Many(Vec<T>),
}

impl<T> Items<T> {
    pub(super) const NONE: Self = Self::Many(Vec::new());

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Many(items) if items.is_empty())
    }

    pub(super) fn push(&mut self, item: T) {
        *self = match std::mem::replace(self, Self::NONE) {
            Self::Many(items) if items.is_empty() => Self::One(item),
            Self::Many(mut items) => {
                items.push(item);
                Self::Many(items)
            }
            Self::One(first) => {
                // One of several is followed by more: room for as many as a `Vec` begins with.
                let mut items = Vec::with_capacity(4);
                items.extend([first, item]);
                Self::Many(items)
            }
        }
    }

    /// In order; none are left.
    pub(super) fn take(&mut self) -> Vec<T> {
        match std::mem::replace(self, Self::NONE) {
            Self::One(item) => vec![item],
            Self::Many(items) => items,
        }
    }
}
