use std::{
    fs::File,
    io::Read,
    sync::mpsc::{self, Receiver, Sender},
};

use proptest::{collection, prelude::*};

use super::*;

const LONG: Duration = Duration::from_secs(20);

fn queue(capacity: usize) -> Queue {
    Queue::new(capacity)
}

/// What has come out of the queue, and the room that this makes.
fn written(queue: &mut Queue) -> String {
    String::from_utf8(mem::take(&mut queue.waiting)).unwrap()
}

#[test]
fn what_has_no_room_is_dropped_by_whole_lines_and_counted() {
    let mut queue = queue(10);
    assert_eq!(queue.take_in(b"one\ntwo\nthree\n"), 6);
    assert_eq!(queue.take_in(b"x"), 0, "there is room for this");
    assert_eq!(queue.take_in(b"four\n"), 5);
    assert_eq!(written(&mut queue), "one\ntwo\nx\n", "a line that had begun is ended");
    assert_eq!(queue.take_in(b"five\n"), 0);
    assert_eq!(written(&mut queue), "five\n");
    assert_eq!(queue.lost.bytes, 11);
}

#[test]
fn the_rest_of_a_line_whose_beginning_was_dropped_is_dropped() {
    let mut queue = queue(4);
    assert_eq!(queue.take_in(b"abcdefg"), 7);
    assert_eq!(written(&mut queue), "");
    assert_eq!(queue.take_in(b"hi\njk\n"), 3);
    assert_eq!(written(&mut queue), "jk\n");
}

#[test]
fn a_stream_without_lines_goes_on_when_there_is_room_again() {
    let mut queue = queue(4);
    assert_eq!(queue.take_in(b"abc"), 0);
    assert_eq!(queue.take_in(b"defg"), 4);
    assert_eq!(written(&mut queue), "abc\n");
    assert_eq!(queue.take_in(b"hi"), 2);
    assert_eq!(queue.take_in(b"jk"), 0);
    assert_eq!(written(&mut queue), "jk");
}

proptest! {
    #[test]
    fn nothing_is_lost_uncounted_and_the_queue_stays_bounded(
        ops in collection::vec(("[ab\n]{0,9}", any::<bool>()), 0..60),
    ) {
        let (mut queue, mut given, mut came) = (queue(8), String::new(), String::new());
        let mut lost = 0;
        for (text, empty) in ops {
            lost += queue.take_in(text.as_bytes());
            given += &text;
            prop_assert!(queue.waiting.len() <= 8 + 1);
            if empty {
                came += &written(&mut queue);
            }
        }
        came += &written(&mut queue);
        prop_assert_eq!(queue.lost.bytes, lost as u64);
        if lost == 0 {
            prop_assert_eq!(&came, &given);
        }
        // But for the line ends that were put in.
        let letters = |text: &str| text.matches(['a', 'b']).count();
        prop_assert!(letters(&came) <= letters(&given));
        prop_assert!(letters(&given) - letters(&came) <= lost);
    }
}

/// A sink that asks what each write comes to.
struct Asking {
    asks: Sender<Vec<u8>>,
    answers: Receiver<io::Result<usize>>,
}

impl Write for Asking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.asks.send(bytes.to_vec()).unwrap();
        self.answers.recv().unwrap_or(Ok(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn asking() -> (Asking, Receiver<Vec<u8>>, Sender<io::Result<usize>>) {
    let (asks, asked) = mpsc::channel();
    let (answer, answers) = mpsc::channel();
    (Asking { asks, answers }, asked, answer)
}

#[test]
fn who_pushes_never_waits_for_the_sink() {
    let (sink, asked, answer) = asking();
    let relay = Relay::start("test", sink, 100, Arc::default()).unwrap();
    relay.push(b"first\n");
    assert_eq!(asked.recv_timeout(LONG).unwrap(), b"first\n");
    // The sink is stuck from here on.
    for _ in 0..10_000 {
        relay.push(b"0123456789\n");
    }
    assert!(!relay.flush_within(Duration::ZERO));
    assert!(!relay.has_room(11));
    drop(answer);
    assert!(relay.flush_within(LONG) && relay.has_room(100));
    assert_eq!(relay.take_lost().unwrap().bytes, 11 * (10_000 - 9));
    assert!(relay.take_lost().is_none());
}

#[test]
fn a_write_that_fails_costs_its_bytes_and_the_next_is_tried() {
    let lost = Arc::new(Notify::new());
    let (sink, asked, answer) = asking();
    let relay = Relay::start("test", sink, 100, Arc::clone(&lost)).unwrap();
    answer.send(Ok(2)).unwrap();
    answer.send(Err(io::ErrorKind::Interrupted.into())).unwrap();
    answer.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
    relay.push(b"12345\n");
    assert!(relay.flush_within(LONG));
    let told = relay.take_lost().unwrap();
    assert_eq!(told.bytes, 4);
    assert_eq!(told.error.unwrap().kind(), io::ErrorKind::StorageFull);
    let tried: Vec<_> = asked.try_iter().collect();
    assert_eq!(tried, [&b"12345\n"[..], b"345\n", b"345\n"]);
    drop(answer);
    relay.push(b"next\n");
    assert!(relay.flush_within(LONG));
    let tried: Vec<_> = asked.try_iter().collect();
    assert_eq!(tried, [&b"\n"[..], b"next\n"], "what had been written of the line is ended");
}

#[test]
fn the_rest_of_a_line_that_could_not_be_written_is_dropped() {
    let (sink, asked, answer) = asking();
    let relay = Relay::start("test", sink, 100, Arc::default()).unwrap();
    let tried = |bytes: &[u8]| assert_eq!(asked.recv_timeout(LONG).unwrap(), bytes);
    let refuse = || answer.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
    relay.push(b"one\ntw");
    tried(b"one\ntw");
    // Comes while the sink is at it.
    relay.push(b"o\nthree\nfo");
    answer.send(Ok(5)).unwrap();
    tried(b"w");
    refuse();
    tried(b"\n");
    // Not even this has room: nothing more is tried of the batch.
    refuse();
    assert!(relay.flush_within(LONG));
    // Comes after it.
    relay.push(b"ur\nfive\n");
    tried(b"\n");
    answer.send(Ok(1)).unwrap();
    tried(b"five\n");
    drop(answer);
    assert!(relay.flush_within(LONG));
    assert_eq!(relay.take_lost().unwrap().bytes, ("wo\nthree\nfour\n").len() as u64);
    assert_eq!(asked.try_iter().count(), 0);
}

#[test]
fn a_line_that_comes_in_pieces_is_whole_where_no_write_fails() {
    let (sink, asked, answer) = asking();
    let relay = Relay::start("test", sink, 100, Arc::default()).unwrap();
    drop(answer);
    for piece in [&b"on"[..], b"e\n"] {
        relay.push(piece);
        assert!(relay.flush_within(LONG));
    }
    assert_eq!(asked.try_iter().collect::<Vec<_>>(), [&b"on"[..], b"e\n"]);
}

#[tokio::test]
async fn a_loss_is_an_event() {
    let lost = Arc::new(Notify::new());
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let sink = Descriptor(writer.into());
    let relay = Relay::start("test", sink, 100, Arc::clone(&lost)).unwrap();
    relay.push(b"nobody reads this\n");
    tokio::time::timeout(LONG, lost.notified()).await.unwrap();
    let told = relay.take_lost().unwrap();
    assert_eq!(told.error.unwrap().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_descriptor_that_somebody_made_non_blocking_is_waited_for() {
    let (reader, writer) = io::pipe().unwrap();
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
    let relay = Relay::start("test", Descriptor(writer.into()), 1 << 20, Arc::default()).unwrap();
    let text = b"0123456789abcde\n".repeat(1 << 15);
    relay.push(&text);
    drop(relay);
    let mut came = Vec::new();
    File::from(OwnedFd::from(reader)).read_to_end(&mut came).unwrap();
    assert!(came == text, "{} of {} bytes came", came.len(), text.len());
}

#[test]
fn what_is_taken_at_once_and_what_waits_come_in_their_order() {
    let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&writer, 16 * 1024).unwrap();
    let at_once = AtOnce::of(writer.try_clone().unwrap().into());
    let sink = Descriptor(writer.into());
    let relay = Relay::start("test", sink, 1 << 20, Arc::default()).unwrap().at_once(at_once);
    relay.push(b"first\n");
    assert!(relay.flush_within(Duration::ZERO), "it did not wait for the thread");
    // Soon the socket is full, and the rest waits.
    let lines: String = (0..2000).map(|n| format!("{n:0200}\n")).collect();
    lines.split_inclusive('\n').for_each(|line| relay.push(line.as_bytes()));
    assert!(!relay.flush_within(Duration::ZERO), "more than the socket takes");
    drop(relay);
    let mut came = String::new();
    (&reader).read_to_string(&mut came).unwrap();
    assert_eq!(came, format!("first\n{lines}"));
}

/// A file on a disk that is full for a moment, in the midst of a line.
struct Torn(File, u8);

impl Write for Torn {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1 += 1;
        match self.1 {
            1 => self.0.write(&bytes[..5]),
            2 => Err(io::ErrorKind::StorageFull.into()),
            _ => self.0.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn nothing_is_written_at_once_behind_a_torn_line() {
    let mut file = tempfile::tempfile().unwrap();
    let at_once = AtOnce::of(file.try_clone().unwrap().into());
    let sink = Torn(file.try_clone().unwrap(), 0);
    let relay = Relay::start("test", sink, 1 << 20, Arc::default()).unwrap().at_once(at_once);
    // Longer than what is written at once.
    relay.push(format!("{}\n", "x".repeat(5000)).as_bytes());
    assert!(relay.flush_within(LONG));
    assert!(relay.take_lost().is_some());
    relay.push(b"next\n");
    assert!(relay.flush_within(LONG));
    relay.push(b"and at once\n");
    assert!(relay.flush_within(Duration::ZERO));
    io::Seek::rewind(&mut file).unwrap();
    assert_eq!(io::read_to_string(file).unwrap(), "xxxxx\nnext\nand at once\n");
}

#[test]
fn the_rest_of_a_line_that_could_not_be_written_is_lost_for_the_same_reason() {
    let mut queue = queue(100);
    queue.lose(b"torn", io::Error::from_raw_os_error(libc::ENOSPC));
    assert_eq!(mem::take(&mut queue.lost).bytes, 4);
    assert_eq!(queue.take_in(b" line\nnext\n"), 6);
    let lost = mem::take(&mut queue.lost);
    assert_eq!((lost.bytes, lost.error.unwrap().raw_os_error()), (6, Some(libc::ENOSPC)));
    assert_eq!(written(&mut queue), "next\n");
    // And of one for which there is no room, for that.
    queue.take_in(&[b'x'; 200]);
    assert_eq!(queue.take_in(b"x\n"), 2);
    assert!(queue.lost.error.is_none());
}
