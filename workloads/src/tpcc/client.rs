//! TPC-C as the runner sees it.

use std::marker::PhantomData;

use mixlog_engine::{Builder, Engine, Snapshot, SubmitError, Ticket, TicketError};

use super::audit;
use super::delivery::Delivery;
use super::driver::{Driver, Transaction};
use super::keys::DistrictKey;
use super::load::{self, Load};
use super::new_order::{NewOrder, NewOrderAbort};
use super::order_status::OrderStatus;
use super::payment::Payment;
use super::schema::{self, CUSTOMER_ACCOUNT, DISTRICT_ORDERS, POPULATION, Population, Scale};
use super::stock_level::StockLevel;
use crate::check::Check;
use crate::footprints::{Exact, Footprints};
use crate::workload::{Client, DriveError, Loader, Observed, Settled, Workload};

/// TPC-C over a population of some scale; `F` chooses the footprints of the five transactions.
#[derive(Clone, Copy, Debug)]
pub struct Tpcc<F = Exact> {
    population: Population,
    footprints: PhantomData<fn() -> F>,
}

impl<F: Footprints> Tpcc<F> {
    /// TPC-C over the population of this scale and seed.
    ///
    /// # Panics
    /// If the scale is not valid.
    #[must_use]
    pub fn new(scale: Scale, seed: u64) -> Self {
        assert!(scale.is_valid(), "at least one warehouse, 15 items and 10 customers, in tens");
        Self { population: Population::new(scale, seed), footprints: PhantomData }
    }

    /// How the population is made.
    #[must_use]
    pub const fn population(&self) -> &Population {
        &self.population
    }
}

/// The acknowledged work, by district (see [`DistrictKey::index`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// New orders that committed.
    pub new_orders: Vec<u64>,
    /// Orders that were delivered.
    pub deliveries: Vec<u64>,
    /// Districts that a Delivery found without new orders. Not part of the state, so counted since the clients started.
    pub skipped: u64,
}

impl Acknowledged {
    fn none(scale: &Scale) -> Self {
        let districts = DistrictKey::all(scale.warehouses).count();
        Self { new_orders: vec![0; districts], deliveries: vec![0; districts], skipped: 0 }
    }
}

impl Observed for Acknowledged {
    fn add(&mut self, other: Self) {
        self.new_orders.iter_mut().zip(other.new_orders).for_each(|(sum, count)| *sum += count);
        self.deliveries.iter_mut().zip(other.deliveries).for_each(|(sum, count)| *sum += count);
        self.skipped += other.skipped;
    }
}

impl<F: Footprints> Workload for Tpcc<F> {
    type Client = TpccClient<F>;
    type Observed = Acknowledged;

    fn name(&self) -> String {
        "tpcc".to_owned()
    }

    fn register(&self, builder: Builder) -> Builder {
        let builder = schema::register(builder).procedure::<load::LoadPopulation>();
        let builder = builder.procedure::<load::LoadItems>().procedure::<load::LoadWarehouse>();
        let builder = builder.procedure::<load::LoadStock>().procedure::<load::LoadCustomers>();
        let builder = builder.procedure::<load::LoadOrders>();
        let builder = builder.procedure::<F::Of<NewOrder>>().procedure::<F::Of<Payment>>();
        let builder = builder.procedure::<F::Of<OrderStatus>>().procedure::<F::Of<Delivery>>();
        builder.procedure::<F::Of<StockLevel>>()
    }

    fn is_populated(&self, snapshot: &Snapshot) -> bool {
        snapshot.get(&POPULATION, &0).is_some()
    }

    fn populate(&self, engine: &Engine, progress: &mut dyn FnMut(u64, u64)) -> Result<(), DriveError> {
        let total = load::procedures(self.population).count() as u64;
        let mut loader = Loader::new(engine, total, progress);
        for procedure in load::procedures(self.population) {
            match procedure {
                Load::Population(procedure) => loader.submit(&procedure),
                Load::Items(procedure) => loader.submit(&procedure),
                Load::Warehouse(procedure) => loader.submit(&procedure),
                Load::Stock(procedure) => loader.submit(&procedure),
                Load::Customers(procedure) => loader.submit(&procedure),
                Load::Orders(procedure) => loader.submit(&procedure),
            }?;
        }
        loader.finish()
    }

    fn client(&self, snapshot: &Snapshot, seed: u64, client: u32) -> Result<TpccClient<F>, DriveError> {
        let Some(population) = snapshot.get(&POPULATION, &0) else {
            return Err(DriveError::NotPopulated("there is no TPC-C population".to_owned()));
        };
        if population.scale != self.population.scale {
            return Err(DriveError::other_population(Some(population.scale), &self.population.scale));
        }
        let driver = Driver::new(&population, seed, client);
        Ok(TpccClient {
            driver,
            acknowledged: Acknowledged::none(&population.scale),
            footprints: PhantomData,
        })
    }

    fn observe(&self, snapshot: &Snapshot) -> Acknowledged {
        let mut acknowledged = Acknowledged::none(&self.population.scale);
        let first = self.population.scale.orders() + 1;
        for district in DistrictKey::all(self.population.scale.warehouses) {
            let next = snapshot.get(&DISTRICT_ORDERS, &district).unwrap_or(first);
            acknowledged.new_orders[district.index()] = u64::from(next.saturating_sub(first));
        }
        snapshot.for_each(&CUSTOMER_ACCOUNT, |customer, account| {
            if let Some(count) = acknowledged.deliveries.get_mut(customer.district().index()) {
                *count += u64::from(account.delivery_count);
            }
        });
        acknowledged
    }

    fn audit(&self, snapshot: &Snapshot, observed: Option<&Acknowledged>) -> Vec<Check> {
        // Any seed will do: the rows follow from the one that the population was made with.
        let recorded = snapshot.get(&POPULATION, &0).filter(|found| found.scale == self.population.scale);
        audit::audit(snapshot, &recorded.unwrap_or(self.population), observed)
    }
}

/// The terminals of one client thread.
pub struct TpccClient<F> {
    driver: Driver,
    acknowledged: Acknowledged,
    footprints: PhantomData<fn() -> F>,
}

/// A TPC-C transaction in flight.
pub enum Pending<F: Footprints> {
    /// New-Order, with the district that takes it.
    NewOrder(Ticket<F::Of<NewOrder>>, DistrictKey),
    /// Payment.
    Payment(Ticket<F::Of<Payment>>),
    /// Order-Status.
    OrderStatus(Ticket<F::Of<OrderStatus>>),
    /// Delivery, with its warehouse.
    Delivery(Ticket<F::Of<Delivery>>, u32),
    /// Stock-Level.
    StockLevel(Ticket<F::Of<StockLevel>>),
}

impl<F: Footprints> Client for TpccClient<F> {
    type Pending = Pending<F>;
    type Observed = Acknowledged;

    fn submit(&mut self, engine: &Engine) -> Result<Pending<F>, SubmitError> {
        Ok(match self.driver.draw() {
            Transaction::NewOrder(order) => {
                let district = order.district_key();
                Pending::NewOrder(engine.submit(&F::of(order))?, district)
            }
            Transaction::Payment(payment) => Pending::Payment(engine.submit(&F::of(payment))?),
            Transaction::OrderStatus(status) => Pending::OrderStatus(engine.submit(&F::of(status))?),
            Transaction::Delivery(delivery) => {
                let warehouse = delivery.warehouse;
                Pending::Delivery(engine.submit(&F::of(delivery))?, warehouse)
            }
            Transaction::StockLevel(level) => Pending::StockLevel(engine.submit(&F::of(level))?),
        })
    }

    fn settle(&mut self, pending: Pending<F>) -> Result<Settled, TicketError> {
        let Acknowledged { new_orders, deliveries, skipped } = &mut self.acknowledged;
        Ok(match pending {
            Pending::NewOrder(ticket, district) => Settled::of(
                ticket.wait()?,
                |_| new_orders[district.index()] += 1,
                |reason| matches!(reason, NewOrderAbort::UnusedItem { .. }),
            ),
            Pending::Payment(ticket) => Settled::of(ticket.wait()?, |_| {}, |_| false),
            Pending::OrderStatus(ticket) => Settled::of(ticket.wait()?, |_| {}, |_| false),
            Pending::Delivery(ticket, warehouse) => {
                let count = |delivered: super::delivery::Delivered| {
                    for (district, order) in DistrictKey::of_warehouse(warehouse).zip(delivered.orders) {
                        deliveries[district.index()] += u64::from(order != 0);
                    }
                    *skipped += delivered.skipped() as u64;
                };
                Settled::of(ticket.wait()?, count, |_| false)
            }
            Pending::StockLevel(ticket) => Settled::of(ticket.wait()?, |_| {}, |_| false),
        })
    }

    fn observed(self) -> Acknowledged {
        self.acknowledged
    }
}
