-- The trend ends where the connections are: what `active_by_day` says of today is what is active now.
with today as (
    select account_id, catalog, type, participant_kind, active_connections as active
    from {{ source('reporting', 'active_by_day') }}
    where day = (current_timestamp at time zone 'UTC')::date and active_connections <> 0
),

now as (
    select account_id, catalog, type, participant_kind, count(*) as active
    from {{ source('reporting', 'connections') }}
    where is_active
    group by 1, 2, 3, 4
)

select account_id, catalog, type, participant_kind, today.active as active_today, now.active as active_now
from today
full join now using (account_id, catalog, type, participant_kind)
where today.active is distinct from now.active
