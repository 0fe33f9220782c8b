//! `steadfast delete`: removes instances with their children, histories, key-values and messages.
//!
//! Invariants: of several named instances, none is deleted when one of them does not exist or runs; what was not named is
//! shown first, and deleted only with `--yes`, whole trees of it and never more instances than `--limit`.

use clap::Args;
use duroxide::{DeleteInstanceResult, InstanceFilter};
use serde_json::{Value, json};

use crate::{
    clock,
    error::CliError,
    output::{self, Grid, Output, count, printable},
    store::Store,
};

/// Trees that are shown before "and more".
const SHOWN: usize = 50;

/// Delete instances by id, or those that ended some time ago
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["instances", "completed_before"]))]
pub(crate) struct Arguments {
    /// The instances' ids; children go with their root
    #[arg(value_name = "INSTANCE")]
    instances: Vec<String>,
    /// Also those that still run, without telling them (cancel first where you can), and those that no worker has taken
    #[arg(long, requires = "instances")]
    force: bool,
    /// All that ended before then: an age (7d, 2h 30m) or a time (2026-01-31, 2026-01-31T12:00:00Z); they are only shown
    /// unless --yes is given
    #[arg(long, value_name = "WHEN")]
    completed_before: Option<String>,
    /// How many instances at most, children counted: a root goes with all its children, or stays
    #[arg(long, default_value_t = 1_000, conflicts_with = "instances", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// With --completed-before: do delete them
    #[arg(long, conflicts_with = "instances")]
    yes: bool,
}

pub(crate) async fn run(store: &Store, arguments: &Arguments, output: &mut Output) -> Result<(), CliError> {
    let (total, left_out) = match &arguments.completed_before {
        Some(when) => {
            let before = clock::parse_before(when, clock::now_ms()).map_err(CliError::Usage)?;
            let chosen = choose(store, before, arguments.limit).await?;
            if !arguments.yes {
                return show(&chosen, before, output);
            }
            let total = delete_chosen(store, before, &chosen).await?;
            (total, chosen.left_out)
        }
        None => {
            let total = delete_named(store, &arguments.instances, arguments.force).await?;
            (total, Vec::new())
        }
    };
    output.say(
        &json!({
            "instances_deleted": total.instances_deleted,
            "executions_deleted": total.executions_deleted,
            "events_deleted": total.events_deleted,
            "queue_messages_deleted": total.queue_messages_deleted,
            "left_out": left_out.iter().map(Tree::json).collect::<Vec<_>>(),
        }),
        format!("deleted {}", in_words(&total)),
    )?;
    tell_left_out(&left_out, output)
}

/// A root and how many instances go with it, itself counted.
struct Tree {
    root: String,
    instances: u64,
}

impl Tree {
    fn json(&self) -> Value {
        json!({ "instance_id": self.root, "instances": self.instances })
    }
}

/// What a bulk deletion would delete.
struct Chosen {
    trees: Vec<Tree>,
    /// Trees that are larger than the limit by themselves.
    left_out: Vec<Tree>,
    /// There may be others, beyond the limit.
    more: bool,
}

impl Chosen {
    fn instances(&self) -> u64 {
        self.trees.iter().map(|tree| tree.instances).sum()
    }
}

/// The oldest ones, as many whole trees as the limit allows.
async fn choose(store: &Store, before: u64, limit: u32) -> Result<Chosen, CliError> {
    let filter = InstanceFilter {
        instance_ids: None,
        completed_before: Some(before),
        limit: Some(limit),
    };
    let roots = store.provider.deletable(filter).await?;
    let mut chosen = Chosen {
        trees: Vec::new(),
        left_out: Vec::new(),
        more: roots.len() as u64 >= u64::from(limit),
    };
    let limit = u64::from(limit);
    for root in roots {
        let instances = store.provider.get_instance_tree(&root).await?.all_ids.len() as u64;
        let tree = Tree { root, instances };
        if tree.instances > limit {
            chosen.left_out.push(tree);
        } else if chosen.instances() + tree.instances <= limit {
            chosen.trees.push(tree);
        } else {
            chosen.more = true;
            break;
        }
    }
    Ok(chosen)
}

fn show(chosen: &Chosen, before: u64, output: &mut Output) -> Result<(), CliError> {
    if output.is_json() {
        return output.json(&json!({
            "dry_run": true,
            "completed_before_ms": before,
            "instances": chosen.instances(),
            "would_delete": chosen.trees.iter().map(Tree::json).collect::<Vec<_>>(),
            "left_out": chosen.left_out.iter().map(Tree::json).collect::<Vec<_>>(),
            "more": chosen.more,
        }));
    }
    let before = clock::stamp(before);
    if chosen.trees.is_empty() {
        output.line(format!("nothing that ended before {before} is to be deleted"))?;
        return tell_left_out(&chosen.left_out, output);
    }
    let mut table = Grid::new(&["WOULD DELETE", "WITH ITS CHILDREN"]);
    for tree in chosen.trees.iter().take(SHOWN) {
        table.add_row([printable(&tree.root), count(tree.instances, "instance")]);
    }
    output.table(&table)?;
    if let Some(rest) = chosen.trees.len().checked_sub(SHOWN).filter(|rest| *rest > 0) {
        output.line(format!("and {rest} more"))?;
    }
    let (roots, all) = (chosen.trees.len() as u64, chosen.instances());
    output.line(format!(
        "{} in {} that ended before {before}{}",
        count(all, "instance"),
        count(roots, "tree"),
        if chosen.more {
            "; there are others, beyond --limit"
        } else {
            ""
        }
    ))?;
    tell_left_out(&chosen.left_out, output)?;
    output.line("nothing was deleted: to delete them, add --yes")
}

fn tell_left_out(trees: &[Tree], output: &mut Output) -> Result<(), CliError> {
    for tree in trees.iter().filter(|_| !output.is_json()) {
        let Tree { root, instances } = tree;
        output::warn(&format!(
            "{root} is left out: it goes with {}, which is more than --limit",
            count(*instances, "instance")
        ));
    }
    Ok(())
}

/// Only what was chosen, and only where it still is as it was then.
async fn delete_chosen(store: &Store, before: u64, chosen: &Chosen) -> Result<DeleteInstanceResult, CliError> {
    if chosen.trees.is_empty() {
        return Ok(DeleteInstanceResult::default());
    }
    let filter = InstanceFilter {
        instance_ids: Some(chosen.trees.iter().map(|tree| tree.root.clone()).collect()),
        completed_before: Some(before),
        limit: u32::try_from(chosen.trees.len()).ok(),
    };
    Ok(store.client().delete_instance_bulk(filter).await?)
}

/// Refuses what runs, before anything is deleted.
async fn require_ended(store: &Store, root: &str) -> Result<(), CliError> {
    for id in store.provider.get_instance_tree(root).await?.all_ids {
        let Some(found) = store.provider.instance(&id).await? else {
            continue;
        };
        let status = found.summary.status;
        if !["Completed", "Failed"].contains(&status.as_str()) {
            let child = if id == root {
                String::new()
            } else {
                format!(" (a child of {root:?})")
            };
            let why = if status == "Pending" {
                "is pending, no worker has taken it: wait for its first turn"
            } else {
                "is still running: cancel it first"
            };
            return Err(CliError::Refused(format!(
                "instance {id:?}{child} {why}, or use --force"
            )));
        }
    }
    Ok(())
}

async fn delete_named(store: &Store, ids: &[String], force: bool) -> Result<DeleteInstanceResult, CliError> {
    for id in ids {
        store.instance(id).await?;
    }
    if !force {
        for id in ids {
            require_ended(store, id).await?;
        }
    }
    let client = store.client();
    let mut total = DeleteInstanceResult::default();
    for id in ids {
        match client.delete_instance(id, force).await {
            Ok(result) => add(&mut total, &result),
            Err(error) if total.instances_deleted == 0 => return Err(error.into()),
            Err(error) => {
                let done = in_words(&total);
                return Err(CliError::Refused(format!(
                    "{} (deleted before that: {done})",
                    CliError::from(error)
                )));
            }
        }
    }
    Ok(total)
}

fn add(total: &mut DeleteInstanceResult, one: &DeleteInstanceResult) {
    total.instances_deleted += one.instances_deleted;
    total.executions_deleted += one.executions_deleted;
    total.events_deleted += one.events_deleted;
    total.queue_messages_deleted += one.queue_messages_deleted;
}

fn in_words(result: &DeleteInstanceResult) -> String {
    let DeleteInstanceResult {
        instances_deleted,
        executions_deleted,
        events_deleted,
        queue_messages_deleted,
    } = result;
    let counts = [
        count(*instances_deleted, "instance"),
        count(*executions_deleted, "execution"),
        count(*events_deleted, "event"),
        count(*queue_messages_deleted, "queued message"),
    ];
    counts.join(", ")
}
