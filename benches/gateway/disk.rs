//! What the disk asks for one synced write, whoever makes it.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    time::Instant,
};

use crate::figures::Samples;

/// A file beside the journals.
pub(crate) struct Disk(File);

impl Disk {
    pub(crate) fn new(folder: &Path) -> Self {
        let path = folder.join("synced");
        Self(OpenOptions::new().create(true).append(true).open(path).expect("a file"))
    }

    /// Appends a page and waits until it is on the disk, so often.
    pub(crate) fn sync(&mut self, times: usize) -> Samples {
        let mut samples = Samples::default();
        for _ in 0..times {
            let begun = Instant::now();
            self.0.write_all(&[7; 4096]).expect("there is room");
            self.0.sync_data().expect("it can be synced");
            samples.push(begun.elapsed());
        }
        samples
    }
}
