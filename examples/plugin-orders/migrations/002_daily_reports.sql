create table daily_reports (
  day date primary key,
  orders integer not null,
  pieces integer not null
);
