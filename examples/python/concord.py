# SPDX-License-Identifier: Apache-2.0
"""Transactions over several databases, from Python, with its standard library only.

    import concord

    client = concord.Client(["127.0.0.1:7420"])
    with client.transaction() as tx:
        tx.execute("orders", "UPDATE account SET cents = cents - $1 WHERE id = $2", 500, 1)
        tx.execute("billing", "UPDATE account SET cents = cents + ? WHERE id = ?", 500, 1)

When the block ends the work is committed in every database, or Aborted, Torn or Unknown says what
became of it; an exception in it rolls everything back. The databases have to be behind agents.

A client keeps one connection, so each thread has a client of its own.
"""

import base64
import contextlib
import datetime
import decimal
import http.client
import json
import time


class Error(Exception):
    """What this module raises."""


class Refused(Error):
    """A node refused a request; nothing was done. code is what the API calls it."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Unavailable(Error):
    """No node did what was asked for within the client's patience."""


class StatementFailed(Error):
    """A statement was not done, or may not have been.

    Then the transaction can only go back to an older savepoint, or be rolled back. With not_sent no
    database has seen the statement, and the transaction is as it was before."""

    def __init__(self, message, not_sent):
        super().__init__(message)
        self.not_sent = not_sent


class Aborted(Error):
    """Nothing of the transaction happened anywhere. It may be tried again."""


class Torn(Error):
    """SQL of its own ended part of the transaction, which may be committed; the rest is rolled back."""


class Unknown(Error):
    """The transaction is committed or aborted, and it could not be learned which. Never repeat it
    blindly: Client.outcome(error.gid) tells."""

    def __init__(self, gid, message):
        super().__init__(message)
        self.gid = gid


class Time(str):
    """A date, a time of day or both, as in RFC 3339: a database may keep more digits than datetime."""


class Json(str):
    """A JSON text, whose numbers nobody has rounded."""


class Result:
    """The answer to a statement: names of columns, rows as tuples, and how many rows were changed, None
    if the database does not say."""

    def __init__(self, message):
        self.columns = [c["name"] for c in message.get("columns", [])]
        self.rows = [tuple(_from_value(v) for v in row.get("values", [])) for row in message.get("rows", [])]
        self.affected = int(message["affected"]) if "affected" in message else None


class Client:
    """Calls a cluster through any of its nodes, "host:port" each."""

    def __init__(self, addrs, patience=30.0, context=None, token=None):
        """patience is how many seconds a request may take with all its repetitions. context, an
        ssl.SSLContext, has whom to believe and the client's certificate; a token takes the place of that:

            context = ssl.create_default_context(cafile="certs/ca.crt")
            context.load_cert_chain("certs/client.billing-app.crt", "certs/client.billing-app.key")"""
        if token is not None and context is None:
            raise ValueError("a token is sent to nodes only that are verified: give a context, too")
        self._addrs = list(addrs)
        self._patience = patience
        self._context = context
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = "Bearer " + token
        self._connection = None

    def close(self):
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def begin(self, timeout=None, silence=None, label="", protocol="two_phase"):
        """Starts a transaction. It is rolled back after timeout seconds, and when it has heard nothing
        for silence seconds. With protocol "three_phase" its agents can finish it without the cluster."""
        request = {"label": label, "protocol": protocol}
        if timeout is not None:
            request["timeoutMs"] = round(timeout * 1000)
        if silence is not None:
            request["silenceMs"] = round(silence * 1000)
        answer = self.call("TransactionService/Begin", request)
        return Transaction(self, answer["session"], answer["gid"])

    @contextlib.contextmanager
    def transaction(self, **options):
        """begin for a with statement."""
        tx = self.begin(**options)
        try:
            yield tx
        except BaseException:
            with contextlib.suppress(Error):  # it is rolled back at its time limit then
                tx.rollback()
            raise
        tx.commit()

    def run(self, key, statements, timeout=None, label=""):
        """Executes statements in one transaction, at most once for an idempotency key, and returns their
        Results: those of the first time, if it was committed before. A statement is a tuple of resource,
        text and list of arguments, and may have as a fourth how many rows are expected.

        After Unavailable or Unknown, and after Aborted if it makes sense, call it again with the same key."""
        request = {"key": key, "label": label, "statements": []}
        for resource, text, arguments, *expected in statements:
            statement = {"resource": resource, "statement": text, "arguments": [_to_value(a) for a in arguments]}
            if expected:
                statement["rowsExpected"] = str(expected[0])
            request["statements"].append(statement)
        if timeout is not None:
            request["timeoutMs"] = round(timeout * 1000)
        answer = self.call("TransactionService/Run", request)
        _raise(answer)
        return [Result(r) for r in answer["results"]]

    def outcome(self, gid):
        """What became of a transaction, for good: committed or aborted. One that nobody has decided is
        aborted by the question."""
        return self.call("CoordinatorService/Outcome", {"gid": gid})["outcome"]

    def call(self, method, request):
        """Sends a request until a node answers it. That is safe: a numbered request is done once, and
        a Begin whose answer is lost holds nothing."""
        body = json.dumps(request)
        deadline = time.monotonic() + self._patience
        while True:
            left = deadline - time.monotonic()
            try:
                status, text = self._post(method, body, max(left, 0.1))
                answer = json.loads(text)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.close()
                failure = f"{self._addrs[0]}: {error!r}"
            else:
                if status == 200:
                    return answer
                code, failure = answer.get("code", "unknown"), answer.get("message", text)
                if code not in ("unavailable", "deadline_exceeded", "resource_exhausted"):
                    raise Refused(code, failure)
            if time.monotonic() >= deadline:
                raise Unavailable(f"{method}: {failure}")
            self.close()
            self._addrs.append(self._addrs.pop(0))  # perhaps another node knows more
            time.sleep(min(0.1, self._patience / 10))

    def _post(self, method, body, timeout):
        if self._connection is None and self._context is not None:
            self._connection = http.client.HTTPSConnection(self._addrs[0], timeout=timeout, context=self._context)
        elif self._connection is None:
            self._connection = http.client.HTTPConnection(self._addrs[0], timeout=timeout)
        self._connection.timeout = timeout
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout)
        self._connection.request("POST", "/concord.v1." + method, body, self._headers)
        response = self._connection.getresponse()
        return response.status, response.read().decode()


class Transaction:
    """One transaction. Its requests are sent one after the other."""

    def __init__(self, client, session, gid):
        self._client = client
        self._session = session
        self.gid = gid
        self._number = 0

    def execute(self, resource, statement, *arguments, max_rows=None, timeout=None):
        """Runs one statement in a database and returns its Result. Arguments are None, bool, int, float,
        decimal.Decimal, str, bytes, Json, Time, or of module datetime."""
        request = {"resource": resource, "statement": statement, "arguments": [_to_value(a) for a in arguments]}
        if max_rows is not None:
            request["maxRows"] = max_rows
        if timeout is not None:
            request["timeoutMs"] = round(timeout * 1000)
        return Result(self._ask("Execute", request))

    def savepoint(self, name):
        """Marks the work done so far, in all databases."""
        self._ask("Savepoint", {"name": name})

    def rollback_to(self, name):
        """Undoes the work since a savepoint, in all databases, and heals a failed statement behind it."""
        self._ask("RollbackTo", {"name": name})

    def commit(self):
        """Returns when everything is committed; else raises Aborted, Torn or Unknown."""
        try:
            answer = self._client.call("TransactionService/Commit", {"session": self._session, "number": self._number + 1})
        except Unavailable as error:
            raise Unknown(self.gid, str(error)) from error
        _raise(answer)

    def rollback(self):
        """Undoes everything."""
        self._client.call("TransactionService/Rollback", {"session": self._session})

    def _ask(self, method, request):
        number = self._number + 1
        answer = self._client.call("TransactionService/" + method, {"session": self._session, "number": number, **request})
        self._number = number  # an answer uses the number up, whatever it says
        if "error" in answer:
            raise StatementFailed(answer["error"], answer.get("notSent", False))
        return answer


def _raise(answer):
    """Raises what an answer says, unless it is committed."""
    outcome, reason = answer["outcome"], answer.get("reason", "")
    if "resource" in answer:
        reason = f"{answer['resource']}: {reason}"
    if outcome == "aborted":
        raise Aborted(reason)
    if outcome == "torn":
        raise Torn(reason)
    if outcome != "committed":
        raise Unknown(answer["gid"], f"{outcome}: {reason}")


def _to_value(a):
    if a is None:
        return {}
    if isinstance(a, bool):
        return {"bool": a}
    if isinstance(a, int):
        if -(2**63) <= a < 2**63:
            return {"int": str(a)}
        return {"uint": str(a)} if 0 <= a < 2**64 else {"decimal": str(a)}
    if isinstance(a, float):
        names = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}
        return {"float": names.get(str(a), a)}
    if isinstance(a, decimal.Decimal):
        return {"decimal": str(a)}
    if isinstance(a, Json):
        return {"json": str(a)}
    if isinstance(a, Time):
        return {"time": str(a)}
    if isinstance(a, str):
        return {"text": a}
    if isinstance(a, (bytes, bytearray, memoryview)):
        return {"bytes": base64.b64encode(a).decode()}
    if isinstance(a, (datetime.date, datetime.time)):  # a datetime is a date
        return {"time": a.isoformat()}
    raise TypeError(f"an argument of type {type(a).__name__} cannot be sent")


def _from_value(v):
    if not v:
        return None
    ((kind, x),) = v.items()
    convert = {"int": int, "uint": int, "float": float, "decimal": decimal.Decimal, "bytes": base64.b64decode, "time": Time, "json": Json}
    return convert.get(kind, lambda x: x)(x)
