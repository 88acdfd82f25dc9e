-- Connections made and canceled per month and type, with how many there were more or fewer at its end.
with moments as (
    select account_id, catalog, type, created_at as moment, 1 as made, 0 as canceled
    from {{ source('reporting', 'connections') }}
    union all
    select account_id, catalog, type, canceled_at, 0, 1
    from {{ source('reporting', 'connections') }}
    where canceled_at is not null
)

select
    account_id,
    catalog,
    type,
    date_trunc('month', moment at time zone 'UTC')::date as month,
    sum(made) as new_connections,
    sum(canceled) as canceled_connections,
    sum(made) - sum(canceled) as net_change
from moments
group by 1, 2, 3, 4
