from django.db import migrations

SQL = r"""
-- One row a machine that is, or shall be, a node: what Fleet decided about its scheduling and why, written before it is done and after.
-- opened: uid of the node that has been open once; overruled: causes that a person opened the node against; gates: what each gate answered;
-- dressed: which labels and taints of the machine were put on the node last.
CREATE TABLE scheduling (machine_id bigint PRIMARY KEY, cluster_id int NOT NULL, node text COLLATE "C" NOT NULL DEFAULT '', node_uid text NOT NULL DEFAULT '', state text NOT NULL, reason text NOT NULL DEFAULT '', message text NOT NULL DEFAULT '',
  since timestamptz NOT NULL DEFAULT now(), cause text NOT NULL DEFAULT '', rv text NOT NULL DEFAULT '', opened text NOT NULL DEFAULT '', overruled text[] NOT NULL DEFAULT '{}', gates jsonb NOT NULL DEFAULT '[]', dressed text NOT NULL DEFAULT '',
  updated_at timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 80);
CREATE INDEX scheduling_cluster ON scheduling (cluster_id, updated_at);
-- Short-lived tokens by which kubelets join: no secret here, only whose they are.
CREATE TABLE join_token (id text PRIMARY KEY, cluster_id int NOT NULL, machine_id bigint NOT NULL, node text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), expires_at timestamptz NOT NULL, used_at timestamptz);
CREATE INDEX join_token_machine ON join_token (machine_id);
"""


class Migration(migrations.Migration):
    dependencies = [("machines", "0002_reports_and_rules")]
    operations = [migrations.RunSQL(SQL, "DROP TABLE join_token; DROP TABLE scheduling;")]
