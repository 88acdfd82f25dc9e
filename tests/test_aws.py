"""The CloudFormation template, carried out by moto: an event goes through its rule and queue to a worker."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from moto.moto_api._internal.models import moto_api_backend
from moto.server import ThreadedMotoServer

from syncer.partner_central.population import Population
from tests import manifests
from tests.conftest import Program, rows, served

# It leaves out what it does not know: the schedules, the queues' and the topic's policies.
pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse AWS:UserWarning")


@dataclass(frozen=True, slots=True)
class Stack:
    endpoint: str
    outputs: dict[str, str]

    def client(self, service: str) -> Any:
        return _client(service, self.endpoint)


@contextmanager
def created(**parameters: str) -> Iterator[Stack]:
    """The stack of the template, in an AWS of its own."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        ec2, cloudformation = _client("ec2", endpoint), _client("cloudformation", endpoint)
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
        given = {"Image": "syncer:0.1.0", "VpcId": vpc, "SubnetIds": subnet, **parameters}
        cloudformation.create_stack(
            StackName="syncer",
            TemplateBody=(manifests.DEPLOY / "aws/template.yaml").read_text(),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        (stack,) = cloudformation.describe_stacks(StackName="syncer")["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE", stack
        yield Stack(endpoint, {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]})
    finally:
        # What moto keeps is the process's, whatever the server.
        moto_api_backend.reset()
        server.stop()


def _client(service: str, endpoint: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="y",
    )


def entry(kind: str, detail: dict[str, Any]) -> dict[str, str]:
    return {"Source": "aws.partnercentral-account", "DetailType": kind, "Detail": json.dumps(detail)}


@pytest.mark.parametrize("catalog", ["AWS", "Sandbox"])
async def test_an_event_comes_through_the_rule_and_the_queue_to_a_worker(
    program: Program, database_url: str, catalog: str
) -> None:
    population = Population(4, seed=220, catalog=catalog)
    accepted, canceled, elsewhere, ours = population.identifiers()
    other = {"AWS": "Sandbox", "Sandbox": "AWS"}[catalog]
    invitation = {"connectionInvitation": {"id": "pacinv-0123456789abc"}}
    with created(Catalog=catalog) as stack:
        sent = stack.client("events").put_events(
            Entries=[
                entry(
                    "Partner Connection Invitation Accepted",
                    {"catalog": catalog, "connection": {"id": accepted}, **invitation},
                ),
                # The guides spell the catalog in two ways; and the ARN is that of an invitation.
                entry(
                    "Partner Connection Cancelled",
                    {
                        "catalog": catalog.lower(),
                        "connection": {"id": canceled, "arn": "arn:aws:partnercentral:us-east-1::x/pacinv-1"},
                    },
                ),
                # Not for this queue: about an invitation only, of another catalog, of another source.
                entry("Partner Connection Invitation Received", {"catalog": catalog, **invitation}),
                entry("Partner Connection Cancelled", {"catalog": other, "connection": {"id": elsewhere}}),
                entry("Partner Connection Cancelled", {"catalog": catalog, "connection": {"id": ours}})
                | {"Source": "ours"},
            ]
        )
        assert sent["FailedEntryCount"] == 0
        queue = stack.client("sqs").get_queue_attributes(
            QueueUrl=stack.outputs["QueueUrl"], AttributeNames=["All"]
        )["Attributes"]
        assert queue["ApproximateNumberOfMessages"] == "2"
        assert json.loads(queue["RedrivePolicy"])["maxReceiveCount"] == 10
        program.environment |= {
            "AWS_ENDPOINT_URL_SQS": stack.endpoint,
            "SYNCER_QUEUE_URL": stack.outputs["QueueUrl"],
            "SYNCER_CATALOG": catalog,
        }
        async with served(program, population):
            done = await program("work", "--drain", "--json")
            checked = await program("check")
    assert (done.exit, done.result["written"], done.result["read"]) == (0, 2, 2), done.stderr
    assert {id for (id,) in rows(database_url, "SELECT id FROM connection")} == {accepted, canceled}
    assert checked.exit == 0, checked.stdout
    assert "to the dead-letter queue after 10 receipts" in checked.stdout


def test_the_tasks_role_has_the_policy_and_nothing_else() -> None:
    with created() as stack:
        iam = stack.client("iam")
        roles = {role["RoleName"]: role for role in iam.list_roles()["Roles"]}
        (name,) = (name for name in roles if "TaskRole" in name)
        attached = iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
        assert [policy["PolicyArn"] for policy in attached] == [stack.outputs["PolicyArn"]]
        assert iam.list_role_policies(RoleName=name)["PolicyNames"] == []
        document = iam.get_policy_version(PolicyArn=stack.outputs["PolicyArn"], VersionId="v1")
        statements = document["PolicyVersion"]["Document"]["Statement"]
        arn = stack.client("sqs").get_queue_attributes(
            QueueUrl=stack.outputs["QueueUrl"], AttributeNames=["QueueArn"]
        )["Attributes"]["QueueArn"]
        assert [statement["Resource"] for statement in statements] == [
            "arn:aws:partnercentral:us-east-1::catalog/AWS/connection/*", "*", arn
        ]  # fmt: skip


@pytest.mark.parametrize(("resource", "auth"), [("", "password"), ("db-ABCDEFGHIJ", "iam")])
def test_the_tasks_log_in_to_the_database_as_their_role_may(resource: str, auth: str) -> None:
    with created(DatabaseResourceId=resource) as stack:
        ecs, iam = stack.client("ecs"), stack.client("iam")
        tasks = ecs.list_task_definitions()["taskDefinitionArns"]
        assert len(tasks) == 2
        for arn in tasks:
            (container,) = ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"][
                "containerDefinitions"
            ]
            assert {"name": "SYNCER_DB_AUTH", "value": auth} in container["environment"]
        policies = [each["Arn"] for each in iam.list_policies(Scope="Local")["Policies"]]
        documents = [
            iam.get_policy_version(PolicyArn=arn, VersionId="v1")["PolicyVersion"]["Document"]
            for arn in policies
        ]
        allowed = [
            statement["Resource"]
            for document in documents
            for statement in document["Statement"]
            if statement["Action"] == "rds-db:connect"
        ]
    login = "arn:aws:rds-db:us-east-1:123456789012:dbuser:db-ABCDEFGHIJ/syncer"
    assert allowed == ([login] if resource else [])


def test_it_runs_nothing_until_it_is_told_to() -> None:
    for running, expected in (("no", 0), ("yes", 1)):
        with created(Running=running) as stack:
            ecs = stack.client("ecs")
            (arn,) = ecs.list_services(cluster=stack.outputs["ClusterName"])["serviceArns"]
            (service,) = ecs.describe_services(cluster=stack.outputs["ClusterName"], services=[arn])[
                "services"
            ]
            assert service["desiredCount"] == expected
