-- What is active has neither ended nor gone, and nothing ends before it begins.
select account_id, catalog, connection_id, type, status, created_at, canceled_at, is_removed
from {{ source('reporting', 'connections') }}
where
    (is_active and (status <> 'ACTIVE' or is_removed))
    or canceled_at < created_at
    or (is_removed and removed_at is null)
