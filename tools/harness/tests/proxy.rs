//! Checks that the proxy loses exactly the messages that it is told to lose.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection, Row};
use tidegate_harness::{Action, Database, Proxy, Trigger, shared};

const DEADLINE: Duration = Duration::from_secs(20);

async fn database_behind_a_proxy() -> (Database, Proxy) {
    let postgres = shared::postgres().unwrap();
    let database = postgres.create_database().await.unwrap();
    database.connect().await.unwrap().execute("CREATE TABLE t (n int)").await.unwrap();
    (database, Proxy::start_postgres(postgres.address()).unwrap())
}

async fn connect(database: &Database, proxy: &Proxy) -> PgConnection {
    PgConnection::connect(&database.url_at(proxy.addr())).await.unwrap()
}

async fn rows(database: &Database) -> i64 {
    let mut connection = database.connect().await.unwrap();
    sqlx::query("SELECT count(*) FROM t").fetch_one(&mut connection).await.unwrap().get(0)
}

async fn insert_and_commit(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query("INSERT INTO t VALUES ($1)").bind(1).execute(&mut *transaction).await?;
    transaction.commit().await
}

#[tokio::test]
async fn a_commit_that_is_cut_before_it_arrives_commits_nothing() {
    let (database, proxy) = database_behind_a_proxy().await;
    let mut connection = connect(&database, &proxy).await;
    let cut = proxy.arm(Trigger::FrontendQueryContains("COMMIT".to_owned()), Action::Cut);
    assert!(insert_and_commit(&mut connection).await.is_err());
    cut.fired(DEADLINE).await.unwrap();
    assert_eq!(rows(&database).await, 0);
}

#[tokio::test]
async fn a_commit_whose_reply_is_dropped_is_committed_and_the_client_does_not_know() {
    let (database, proxy) = database_behind_a_proxy().await;
    let mut connection = connect(&database, &proxy).await;
    let cut = proxy.arm(Trigger::FrontendQueryContains("COMMIT".to_owned()), Action::DropReplyAndCut);
    assert!(insert_and_commit(&mut connection).await.is_err());
    cut.fired(DEADLINE).await.unwrap();
    assert_eq!(rows(&database).await, 1);

    let mut connection = connect(&database, &proxy).await;
    let cut = proxy.arm(Trigger::BackendCommandComplete("COMMIT".to_owned()), Action::Cut);
    assert!(insert_and_commit(&mut connection).await.is_err());
    cut.fired(DEADLINE).await.unwrap();
    assert_eq!(rows(&database).await, 2);

    // Each trigger was armed for one message only, so from now on nothing is lost.
    let mut connection = connect(&database, &proxy).await;
    insert_and_commit(&mut connection).await.unwrap();
    assert_eq!(rows(&database).await, 3);
}

#[tokio::test]
async fn a_prepared_statement_is_seen_each_time_it_runs() {
    let (database, proxy) = database_behind_a_proxy().await;
    let mut connection = connect(&database, &proxy).await;
    insert_and_commit(&mut connection).await.unwrap();
    let cut = proxy.arm(Trigger::FrontendQueryContains("INSERT INTO t".to_owned()), Action::DropReplyAndCut);
    assert!(insert_and_commit(&mut connection).await.is_err());
    cut.fired(DEADLINE).await.unwrap();
    assert_eq!(rows(&database).await, 1);
}

#[tokio::test]
async fn a_copy_is_held_in_its_middle_and_goes_on_when_released() {
    let (database, proxy) = database_behind_a_proxy().await;
    let held = proxy.arm(Trigger::CopyData(2), Action::Hold);
    let mut connection = connect(&database, &proxy).await;
    #[expect(clippy::disallowed_methods, reason = "joined at the end of the test")]
    let copying = tokio::spawn(async move {
        let mut copy = connection.copy_in_raw("COPY t FROM STDIN").await.unwrap();
        for line in ["1\n", "2\n", "3\n"] {
            copy.send(line.as_bytes()).await.unwrap();
        }
        copy.finish().await.unwrap()
    });
    held.fired(DEADLINE).await.unwrap();
    assert_eq!(rows(&database).await, 0);
    held.release();
    assert_eq!(copying.await.unwrap(), 3);
    assert_eq!(rows(&database).await, 3);
}

#[tokio::test]
async fn a_copy_is_cut_at_a_number_of_bytes() {
    let (database, proxy) = database_behind_a_proxy().await;
    let cut = proxy.arm(Trigger::CopyBytes(6), Action::Cut);
    let mut connection = connect(&database, &proxy).await;
    let mut copy = connection.copy_in_raw("COPY t FROM STDIN").await.unwrap();
    for _ in 0..3 {
        // The connection may already be lost when this message is sent, so ignore an error.
        drop(copy.send("1\n".as_bytes()).await);
    }
    assert!(copy.finish().await.is_err());
    cut.fired(DEADLINE).await.unwrap();
    assert_eq!(rows(&database).await, 0);
}

#[tokio::test]
async fn connections_are_cut_refused_and_held_by_hand() {
    let (database, proxy) = database_behind_a_proxy().await;
    let mut connection = connect(&database, &proxy).await;
    assert_eq!(proxy.connections(), 1);
    proxy.cut();
    assert!(connection.execute("SELECT 1").await.is_err());

    proxy.refuse(true);
    assert!(PgConnection::connect(&database.url_at(proxy.addr())).await.is_err());
    proxy.refuse(false);

    let mut connection = connect(&database, &proxy).await;
    proxy.hold(true);
    let mut silent = Box::pin(connection.execute("SELECT 1"));
    let a_moment = Duration::from_millis(200);
    assert!(tokio::time::timeout(a_moment, &mut silent).await.is_err());
    proxy.hold(false);
    tokio::time::timeout(DEADLINE, silent).await.unwrap().unwrap();
}
