//! Sub-orchestrations of an instance.
//!
//! Invariant: a whole tree is one look.

use crate::embedded::error::StoreError;
use crate::embedded::store::Store;

const CHILDREN: &str = "SELECT instance_id FROM sf_instance WHERE parent_instance_id = ?1 ORDER BY instance_key";
const TREE: &str = "
    WITH RECURSIVE tree (id, depth, key) AS (
        SELECT ?1, 0, 0
        UNION
        SELECT c.instance_id, t.depth + 1, c.instance_key
        FROM tree t JOIN sf_instance c ON c.parent_instance_id = t.id)
    SELECT id FROM tree ORDER BY depth, key";

/// Direct children, or (`deep`) the instance and all its descendants, parents first.
pub(crate) async fn list(store: &Store, instance: &str, deep: bool) -> Result<Vec<String>, StoreError> {
    let id = instance.to_owned();
    store
        .ask(move |connection| {
            let mut statement = connection.prepare_cached(if deep { TREE } else { CHILDREN })?;
            let rows = statement.query_map([&id], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
}
