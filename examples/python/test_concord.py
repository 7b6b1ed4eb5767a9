# SPDX-License-Identifier: Apache-2.0
"""Tests concord.py against a real cluster, which CONCORD_ADDR names: "orders" is a PostgreSQL and
"billing" a MariaDB behind an agent, with the table of transfer.py and accounts 1 to 63 of 1000 each.

CONCORD_CONTROL is the address of who can kill -9 a node or the agent and start it again. Without it
the tests that need that are skipped.
"""

import datetime
import decimal
import http.client
import json
import os
import subprocess
import sys
import threading
import time
import unittest

import concord
import transfer

ADDRS = os.environ.get("CONCORD_ADDR", "127.0.0.1:7420").split(",")
CONTROL = os.environ.get("CONCORD_CONTROL")
PATIENCE = 60.0


def control(do, what):
    """kill or start, and agent or the number of a node."""
    connection = http.client.HTTPConnection(CONTROL, timeout=PATIENCE)
    connection.request("POST", f"/{do}/{what}")
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    assert response.status == 200, text


def eventually(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE} s: {what}")
        time.sleep(0.05)


class Case(unittest.TestCase):
    def setUp(self):
        self.client = concord.Client(ADDRS, patience=PATIENCE)
        self.addCleanup(self.client.close)

    def balances(self, account=1):
        """Both balances, as one transaction sees them that locks them."""
        with self.client.transaction() as tx:
            (left,) = tx.execute("orders", "SELECT balance FROM account WHERE id = $1 FOR UPDATE", account).rows
            (right,) = tx.execute("billing", "SELECT balance FROM account WHERE id = ? FOR UPDATE", account).rows
        return left[0], right[0]

    def eventually_balances(self, account=1):
        """The same, once nobody holds the account any more."""
        seen = []

        def free():
            try:
                seen[:] = [self.balances(account)]
            except (concord.StatementFailed, concord.Aborted):  # a lock, or an agent that came back
                return False
            return True

        eventually("nobody holds the account", free)
        return seen[0]


class Transactions(Case):
    def test_commit(self):
        left, right = self.balances(2)
        gid = transfer.transfer(self.client, 5, account=2)
        self.assertEqual((left - 5, right + 5), self.balances(2))
        self.assertEqual("committed", self.client.outcome(gid))

    def test_abort(self):
        before = self.balances(3)
        with self.assertRaisesRegex(ValueError, "does not have 100000"):
            transfer.transfer(self.client, 100000, account=3)
        with self.assertRaises(ZeroDivisionError):
            with self.client.transaction() as tx:
                tx.execute("orders", "UPDATE account SET balance = 0 WHERE id = 3")
                tx.execute("billing", "UPDATE account SET balance = 0 WHERE id = 3")
                1 / 0
        self.assertEqual("aborted", self.client.outcome(tx.gid))
        self.assertEqual(before, self.balances(3))

    def test_failed_statement(self):
        before = self.balances(4)
        tx = self.client.begin()
        tx.execute("orders", "UPDATE account SET balance = 0 WHERE id = 4")
        with self.assertRaisesRegex(concord.StatementFailed, "Duplicate entry") as failed:
            tx.execute("billing", "INSERT INTO account VALUES (4, 0)")
        self.assertFalse(failed.exception.not_sent)
        with self.assertRaisesRegex(concord.Aborted, "billing: .*Duplicate entry"):
            tx.commit()
        self.assertEqual(before, self.balances(4))
        with self.client.transaction() as tx:
            with self.assertRaisesRegex(concord.StatementFailed, "BEGIN, COMMIT, ROLLBACK") as failed:
                tx.execute("orders", "COMMIT")
            self.assertTrue(failed.exception.not_sent)
            tx.execute("orders", "UPDATE account SET balance = balance + 1 WHERE id = 4")
        self.assertEqual((before[0] + 1, before[1]), self.balances(4))

    def test_savepoints(self):
        left, right = self.balances(5)
        with self.client.transaction() as tx:
            tx.execute("orders", "UPDATE account SET balance = balance - 1 WHERE id = 5")
            tx.savepoint("first")
            tx.execute("billing", "UPDATE account SET balance = 0 WHERE id = 5")
            with self.assertRaisesRegex(concord.StatementFailed, "division by zero"):
                tx.execute("orders", "SELECT 1/0")
            tx.rollback_to("first")
            tx.execute("billing", "UPDATE account SET balance = balance + 1 WHERE id = 5")
        self.assertEqual((left - 1, right + 1), self.balances(5))

    def test_values(self):
        values = [None, True, -(2**63), 2**53 + 1, decimal.Decimal("12345678901234567890.0123456789"), 0.1, 'grüße "漢"', b"\x00\xff",
                  concord.Time("2026-01-31T23:59:59.123456Z"), concord.Json('{"a": [1, null]}')]
        kinds = "int bool bigint bigint numeric float8 text bytea timestamptz json".split()
        with self.client.transaction() as tx:
            query = ", ".join(f"${i + 1}::{kind}" for i, kind in enumerate(kinds))
            (row,) = tx.execute("orders", "SELECT " + query, *values).rows
            self.assertEqual(tuple(values), row)
            moment = datetime.datetime(2026, 1, 31, 23, 59, 59, 123456, datetime.timezone.utc)
            self.assertEqual([(concord.Time("2026-01-31T23:59:59.123456Z"),)], tx.execute("orders", "SELECT $1::timestamptz", moment).rows)
            self.assertEqual([(2**64 - 1,)], tx.execute("billing", "SELECT CAST(? AS UNSIGNED)", 2**64 - 1).rows)

    def test_large_results_are_refused(self):
        tx = self.client.begin()
        with self.assertRaisesRegex(concord.StatementFailed, "the result is too large"):
            tx.execute("orders", "SELECT n FROM generate_series(1, 1000000) n")
        with self.assertRaises(concord.Aborted):
            tx.commit()

    def test_refused(self):
        tx = self.client.begin()
        with self.assertRaisesRegex(concord.Refused, "only billing, orders") as refused:
            tx.execute("nowhere", "SELECT 1")
        self.assertEqual("not_found", refused.exception.code)
        tx.execute("orders", "SELECT 1")
        tx.commit()
        with self.assertRaisesRegex(concord.Refused, "accepts no more requests"):
            tx.execute("orders", "SELECT 1")

    def test_silence(self):
        before = self.balances(6)
        tx = self.client.begin(silence=0.3)
        tx.execute("orders", "UPDATE account SET balance = 0 WHERE id = 6")
        self.assertEqual(before, self.eventually_balances(6))
        with self.assertRaisesRegex(concord.Aborted, "heard nothing for 300ms"):
            tx.commit()

    def test_repeated_request(self):
        left, right = self.balances(7)
        tx = self.client.begin()
        request = {"session": tx._session, "number": 1, "resource": "orders", "statement": "UPDATE account SET balance = balance - 1 WHERE id = 7"}
        answers = [self.client.call("TransactionService/Execute", request) for _ in range(3)]
        self.assertEqual([answers[0]] * 3, answers)
        request = {"session": tx._session, "number": 2}
        answers = [self.client.call("TransactionService/Commit", request) for _ in range(3)]
        self.assertEqual([{"outcome": "committed", "gid": tx.gid}] * 3, answers)
        self.assertEqual((left - 1, right), self.balances(7))


    def test_three_phase(self):
        left, right = self.balances(9)
        with self.client.transaction(protocol="three_phase") as tx:
            tx.execute("orders", "UPDATE account SET balance = balance - 1 WHERE id = 9")
            tx.execute("billing", "UPDATE account SET balance = balance + 1 WHERE id = 9")
        self.assertEqual("committed", self.client.outcome(tx.gid))
        with self.assertRaisesRegex(concord.Aborted, "Duplicate entry"):
            with self.client.transaction(protocol="three_phase") as tx:
                tx.execute("orders", "UPDATE account SET balance = 0 WHERE id = 9")
                with self.assertRaises(concord.StatementFailed):
                    tx.execute("billing", "INSERT INTO account VALUES (9, 0)")
        self.assertEqual("aborted", self.client.outcome(tx.gid))
        self.assertEqual((left - 1, right + 1), self.balances(9))

    def test_run_once(self):
        left, right = self.balances(8)
        key = f"test {time.time_ns()}"
        statements = [("orders", "UPDATE account SET balance = balance - $1 WHERE id = $2 RETURNING balance", [7, 8], 1),
                      ("billing", "UPDATE account SET balance = balance + ? WHERE id = ?", [7, 8], 1)]
        for _ in range(3):
            results = self.client.run(key, statements)
            self.assertEqual([(left - 7,)], results[0].rows)
            self.assertEqual(1, results[1].affected)
        self.assertEqual((left - 7, right + 7), self.balances(8))
        with self.assertRaisesRegex(concord.Refused, "the key belongs to another request"):
            self.client.run(key, statements[:1])
        with self.assertRaisesRegex(concord.Aborted, "statement 1: orders: 0 rows, and 1 were expected"):
            self.client.run(key + " more", [("orders", "DELETE FROM account WHERE id = $1", [-1], 1)])
        self.assertEqual((left - 7, right + 7), self.balances(8))


@unittest.skipUnless(CONTROL, "CONCORD_CONTROL is not set")
class Crashes(Case):
    """Whatever dies, and whenever: the balances show what the outcome says."""

    def steps(self, tx, amount, account, at):
        """Moves amount, and calls at between the steps with what was done."""
        at("begun")
        tx.execute("orders", "UPDATE account SET balance = balance - $1 WHERE id = $2", amount, account)
        at("half done")
        tx.execute("billing", "UPDATE account SET balance = balance + ? WHERE id = ?", amount, account)
        at("done")
        tx.commit()
        at("committed")

    def check(self, before, amount, account, gid):
        """Returns the outcome, which everybody agrees about."""
        outcome = self.client.outcome(gid)
        moved = amount if outcome == "committed" else 0
        self.assertEqual((before[0] - moved, before[1] + moved), self.eventually_balances(account))
        return outcome

    def phases(self, client, crash, mend, account, want):
        """Crashes somebody in each phase; want says how the transaction may end then."""
        for phase in ("begun", "half done", "done", "committing", "committed"):
            with self.subTest(phase=phase):
                before = self.eventually_balances(account)
                tx = client.begin(timeout=8)
                crashed = []

                def at(now):
                    if now == phase:
                        crash(tx)
                        crashed.append(True)
                    elif now == "done" and phase == "committing":
                        thread = threading.Thread(target=crash, args=(tx,))
                        thread.start()
                        crashed.append(thread)

                said = "committed"
                try:
                    self.steps(tx, 7, account, at)
                except concord.Aborted:
                    said = "aborted"
                except (concord.StatementFailed, concord.Refused, concord.Unavailable, concord.Unknown):
                    said = None
                    if phase != "committing":
                        tx.rollback()
                self.assertTrue(crashed)
                if phase == "committing":
                    crashed[0].join()
                mend(tx)
                outcome = self.check(before, 7, account, tx.gid)
                self.assertIn(outcome, want[phase])
                if said is not None:
                    self.assertEqual(said, outcome)

    def test_the_agent_dies(self):
        def crash(_):
            control("kill", "agent")

        def mend(_):
            control("start", "agent")

        def both(tx):
            crash(tx)
            mend(tx)

        either = ("committed", "aborted")
        self.phases(self.client, both, lambda _: None, 10,
                    {"begun": either, "half done": ("aborted",), "done": ("aborted",), "committing": either, "committed": ("committed",)})

    def test_the_node_of_the_transaction_dies(self):
        def node(tx):
            return tx._session.partition("@")[2]

        impatient = concord.Client(ADDRS, patience=5.0)  # the node does not come back before it is asked to
        self.addCleanup(impatient.close)
        self.phases(impatient, lambda tx: control("kill", node(tx)), lambda tx: control("start", node(tx)), 11,
                    {"begun": ("aborted",), "half done": ("aborted",), "done": ("aborted",), "committing": ("committed", "aborted"), "committed": ("committed",)})

    def test_run_once_while_nodes_die(self):
        before = self.eventually_balances(13)
        statements = [("orders", "UPDATE account SET balance = balance - 1 WHERE id = 13", [], 1),
                      ("billing", "UPDATE account SET balance = balance + 1 WHERE id = 13", [], 1)]
        for node in (1, 2, 3):
            key = f"while node {node} dies {time.time_ns()}"
            thread = threading.Thread(target=control, args=("kill", str(node)))
            thread.start()
            for _ in range(5):  # as a program that hears nothing, or is impatient
                try:
                    self.client.run(key, statements)
                except (concord.Aborted, concord.Unknown):
                    pass
            thread.join()
            control("start", str(node))
            self.client.run(key, statements)
        self.assertEqual((before[0] - 3, before[1] + 3), self.eventually_balances(13))

    def test_the_program_dies(self):
        want = {"begun": ("aborted",), "half done": ("aborted",), "done": ("aborted",), "committing": ("committed",), "committed": ("committed",)}
        for phase, outcomes in want.items():
            with self.subTest(phase=phase):
                before = self.eventually_balances(12)
                child = subprocess.run([sys.executable, __file__, "--die", phase], stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
                self.assertEqual(9, child.returncode)
                gid = child.stdout.strip()
                if "committed" in outcomes:  # the question would abort what is on its way
                    eventually("the transaction is decided", lambda: decided(self.client, gid))
                self.assertEqual(before if "aborted" in outcomes else (before[0] - 7, before[1] + 7), self.eventually_balances(12))
                self.assertIn(self.check(before, 7, 12, gid), outcomes)


def decided(client, gid):
    try:
        return client.call("CoordinatorService/Get", {"gid": gid})["transaction"].get("outcome") == "committed"
    except concord.Refused:  # not known yet
        return False


def die(phase):
    """Is a program that dies without a word in a phase, or right behind its Commit request."""
    client = concord.Client(ADDRS)
    tx = client.begin(silence=2)
    print(tx.gid, flush=True)

    def at(now):
        if now == "done" and phase == "committing":
            host, _, port = ADDRS[0].partition(":")
            connection = http.client.HTTPConnection(host, int(port))
            connection.request("POST", "/concord.v1.TransactionService/Commit", json.dumps({"session": tx._session, "number": 3}), {"Content-Type": "application/json"})
            os._exit(9)
        if now == phase:
            os._exit(9)

    Crashes.steps(None, tx, 7, 12, at)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--die"]:
        die(sys.argv[2])
    unittest.main()
