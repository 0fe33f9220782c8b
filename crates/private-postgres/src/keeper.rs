//! The thread that starts the server; its invariant: it lives as long as the cluster does.
//!
//! Linux ties a parent-death signal to the *thread* that made the child, not to its process. A server that was started
//! by a test's thread would therefore stop when that one test ends, however many others share the cluster.

use std::{
    io,
    process::{Child, Command},
    sync::mpsc::{self, Sender},
    thread,
};

/// A handle to the thread, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Keeper {
    orders: Sender<Order>,
}

#[derive(Debug)]
struct Order {
    command: Command,
    reply: Sender<io::Result<Child>>,
}

impl Keeper {
    /// Starts the thread.
    pub(crate) fn new() -> io::Result<Self> {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::Builder::new()
            .name("postgres-keeper".to_owned())
            .spawn(move || {
                for mut order in inbox {
                    // Who ordered waits for the answer; if it is gone, so is the need for the child, which drops unused.
                    if let Err(mpsc::SendError(Ok(mut orphan))) = order.reply.send(order.command.spawn()) {
                        let _ = orphan.kill();
                        let _ = orphan.wait();
                    }
                }
            })?;
        Ok(Self { orders })
    }

    /// Starts the command as a child of the thread.
    pub(crate) fn spawn(&self, command: Command) -> io::Result<Child> {
        let (reply, answer) = mpsc::channel();
        let gone = || io::Error::other("the thread that starts servers is gone");
        self.orders.send(Order { command, reply }).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}
