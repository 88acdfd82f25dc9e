-- Each row's `columns` are those of a row of `to`: what `relationships` tests, for a key of several columns.
{% test found_in(model, columns, to) %}
select {{ columns | join(', ') }} from {{ model }}
except
select {{ columns | join(', ') }} from {{ to }}
{% endtest %}
