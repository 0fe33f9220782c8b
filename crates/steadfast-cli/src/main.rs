//! The `steadfast` command: reads the arguments, runs one subcommand, ends with a documented exit code.
//!
//! Invariant: whatever goes wrong is one line on stderr, `error: …`, and one of the codes of [`error`]; never a backtrace.

mod cli;
mod clock;
mod cmd;
mod demo;
mod error;
mod event_text;
mod output;
mod payload;
mod store;

use std::process::ExitCode;

use crate::{
    cli::Cli,
    error::{CliError, exit},
    output::Output,
};

fn main() -> ExitCode {
    // Before the arguments are known to be right: their refusal is read by a program, too.
    let before_any_value = std::env::args_os().skip(1).take_while(|argument| argument != "--");
    output::complain_in_json(before_any_value.into_iter().any(|argument| argument == "--json"));
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(not_a_command(&error)),
    };
    output::complain_in_json(cli.globals.json);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has gone, as in `steadfast list | head`: that is its business.
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error.to_string(), error.exit_code());
            ExitCode::from(error.exit_code())
        }
    }
}

/// What clap has to say: a help or version text as it is, a refusal in one line. Gives the exit code.
fn not_a_command(error: &clap::Error) -> u8 {
    let text = error.render().to_string();
    match text.strip_prefix("error: ") {
        Some(refusal) => {
            let end = refusal
                .find("\n\nUsage:")
                .or_else(|| refusal.find("\n\nFor more information"));
            let reason = refusal.get(..end.unwrap_or(refusal.len())).unwrap_or(refusal);
            let text = format!(
                "{} (more: steadfast help)",
                error::one_line(&reason).replace(":; ", ": ")
            );
            output::complain(&text, exit::USAGE);
        }
        // A closed stdout is no reason to fail.
        None => drop(error.print()),
    }
    if error.use_stderr() { exit::USAGE } else { exit::OK }
}

fn run(cli: Cli) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::io("start the async runtime", source))?;
    let mut output = Output::new(cli.globals.json);
    let result = runtime.block_on(cmd::run(cli, &mut output));
    // Nothing that still blocks (a read of stdin) may hold up the end.
    runtime.shutdown_background();
    result.and(output.finish())
}
