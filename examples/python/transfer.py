# SPDX-License-Identifier: Apache-2.0
"""Moves money from an account in one database to one in another, or not at all.

    python3 transfer.py --addr 127.0.0.1:7420 --amount 300

The table in both is: CREATE TABLE account (id INT PRIMARY KEY, balance BIGINT NOT NULL). "orders" is a
PostgreSQL and "billing" a MariaDB or MySQL, both behind agents.
"""

import argparse
import sys

import concord


def transfer(client, amount, account=1):
    with client.transaction(label=f"{amount} for account {account}") as tx:
        paid = tx.execute("orders", "UPDATE account SET balance = balance - $1 WHERE id = $2 AND balance >= $1", amount, account)
        if paid.affected != 1:
            raise ValueError(f"account {account} does not have {amount}")
        tx.execute("billing", "UPDATE account SET balance = balance + ? WHERE id = ?", amount, account)
        return tx.gid


def main():
    parser = argparse.ArgumentParser(description="Moves money from orders to billing.")
    parser.add_argument("--addr", default="127.0.0.1:7420", help="nodes, host:port[,host:port]")
    parser.add_argument("--amount", type=int, default=1)
    options = parser.parse_args()
    client = concord.Client(options.addr.split(","))
    try:
        gid = transfer(client, options.amount)
    except concord.Unknown as error:
        sys.exit(f"nobody knows yet ({error}): the transaction is {client.outcome(error.gid)}")
    except (concord.Error, ValueError) as error:
        sys.exit(f"nothing was moved: {error}")
    finally:
        client.close()
    print(f"moved {options.amount} in transaction {gid}")


if __name__ == "__main__":
    main()
