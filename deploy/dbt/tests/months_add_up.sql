-- Over all months there are as many new and canceled connections as `reporting.connections` has.
with months as (
    select account_id, catalog, type, sum(new_connections) as made, sum(canceled_connections) as canceled
    from {{ ref('connections_by_month') }}
    group by 1, 2, 3
),

rows as (
    select account_id, catalog, type, count(*) as made, count(canceled_at) as canceled
    from {{ source('reporting', 'connections') }}
    group by 1, 2, 3
)

select account_id, catalog, type, months.made, rows.made as made_rows, months.canceled, rows.canceled as canceled_rows
from months
full join rows using (account_id, catalog, type)
where (months.made, months.canceled) is distinct from (rows.made, rows.canceled)
