//! Whatever can be read of an instance, compared with the reference.

use std::collections::BTreeSet;

use steadfast::inspect::PENDING;

use super::turns::same_events;
use super::{Difference, Trial, same, unexpected};
use crate::model::reference::Instance;

impl Trial {
    pub(super) async fn read(&mut self, caller: usize, id: &str) -> Result<(), Difference> {
        let expected = self
            .reference
            .instances
            .get(id)
            .filter(|instance| instance.named)
            .cloned();
        self.read_histories(caller, id, expected.as_ref())
            .await
            .map_err(|difference| format!("reading {id}: {difference}"))?;
        self.read_states(caller, id, expected.as_ref())
            .await
            .map_err(|difference| format!("reading {id}: {difference}"))?;
        let listed = self.admin(caller).list_instances().await.map_err(unexpected)?;
        let mine = |id: &String| id.starts_with(&self.prefix);
        let listed: BTreeSet<String> = listed.into_iter().filter(mine).collect();
        let known = self.reference.instances.iter().filter(|(_, i)| i.known().is_some());
        same("instances", &listed, &known.map(|(id, _)| id.clone()).collect())
    }

    async fn read_histories(&self, caller: usize, id: &str, expected: Option<&Instance>) -> Result<(), Difference> {
        let (provider, admin) = (&self.callers[caller], self.admin(caller));
        let Some(expected) = expected else {
            let history = provider.read(id).await.map_err(unexpected)?;
            return same_events(&history, &[]);
        };
        let current = expected
            .executions
            .get(&expected.execution)
            .map_or(&[][..], |e| &e.events);
        same_events(&provider.read(id).await.map_err(unexpected)?, current)?;
        let executions = admin.list_executions(id).await.map_err(unexpected)?;
        same(
            "executions",
            &executions,
            &expected.executions.keys().copied().collect(),
        )?;
        for (number, execution) in &expected.executions {
            let history = provider.read_with_execution(id, *number).await.map_err(unexpected)?;
            same_events(&history, &execution.events)?;
            let info = admin.get_execution_info(id, *number).await.map_err(unexpected)?;
            same("execution's status", &info.status, &execution.status)?;
            same("execution's output", &info.output, &execution.output)?;
            same("count of events", &info.event_count, &execution.events.len())?;
        }
        let latest = admin.latest_execution_id(id).await.map_err(unexpected)?;
        same("latest execution", &latest, &expected.execution)
    }

    async fn read_states(&self, caller: usize, id: &str, expected: Option<&Instance>) -> Result<(), Difference> {
        let (provider, admin) = (&self.callers[caller], self.admin(caller));
        let values = provider.get_kv_all_values(id).await.map_err(unexpected)?;
        let values = values.into_iter().collect();
        same(
            "key-values",
            &values,
            &expected.map(Instance::values).unwrap_or_default(),
        )?;
        let first = provider.get_kv_value(id, "k0").await.map_err(unexpected)?;
        same("value of k0", &first, &values.get("k0").cloned())?;
        let status = provider.get_custom_status(id, 0).await.map_err(unexpected)?;
        let custom = expected.map(|instance| instance.custom.clone());
        same("custom status", &status, &custom.filter(|(_, version)| *version > 0))?;
        let children = admin.list_children(id).await.map_err(unexpected)?;
        let children: BTreeSet<String> = children.into_iter().collect();
        same("children", &children, &self.reference.children(id))?;
        let info = admin.get_instance_info(id).await;
        let pending = self.reference.instances.get(id).is_some_and(|i| i.pending().is_some());
        match (info, expected) {
            (Err(_), None) if !pending => Ok(()),
            (Ok(info), None) if pending => same("status", &info.status, &PENDING.to_owned()),
            (Ok(info), Some(expected)) => {
                same("status", &info.status, &expected.status)?;
                same("current execution", &info.current_execution_id, &expected.execution)?;
                let output = expected
                    .executions
                    .get(&expected.execution)
                    .and_then(|e| e.output.clone());
                same("output", &info.output, &output)?;
                same("parent", &info.parent_instance_id, &expected.parent)
            }
            (info, expected) => Err(format!("{info:?} instead of {expected:?}")),
        }
    }
}
