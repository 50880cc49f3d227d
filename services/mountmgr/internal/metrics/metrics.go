// Package metrics tells Prometheus about the mounts of the node.
package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// heldTimeout bounds the question to the vault at a scrape.
const heldTimeout = time.Second

// Source is asked at each scrape, so that nothing is told of a mount that is
// gone. It must be safe for concurrent use.
type Source interface {
	// List returns the mounts.
	List() []store.Record
	// IdleSpares returns how many mount pods wait for a mount.
	IdleSpares() int
	// Held returns how many descriptors the vault holds; an error while it is
	// away.
	Held(ctx context.Context) (int, error)
}

// Metrics counts what happens. A nil one counts nothing. It is safe for
// concurrent use.
type Metrics struct {
	recoveries prometheus.Counter
	handOvers  prometheus.Histogram
	publishes  *prometheus.HistogramVec
	lost       prometheus.Counter
	remounts   prometheus.Counter
	upgrades   *prometheus.CounterVec
	probes     *prometheus.CounterVec
	spares     prometheus.Counter
}

// New returns metrics that have counted nothing, registered with registry.
func New(registry prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		recoveries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "juicefs_csi_mountmgr_recoveries_total",
			Help: "Clients that were replaced after they had ended without warning.",
		}),
		handOvers: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "juicefs_csi_mountmgr_handover_seconds",
			Help:    "How long applications waited in each planned replacement of a client.",
			Buckets: []float64{0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 5, 10},
		}),
		publishes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "juicefs_csi_mountmgr_publish_seconds",
			Help:    "Time of each publish that succeeded: cold ones made a mount, warm ones used one that was there.",
			Buckets: []float64{0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120},
		}, []string{"kind"}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "juicefs_csi_mountmgr_lost_mounts_total",
			Help: "Mounts whose connection nobody could serve any more, so that applications got errors.",
		}),
		remounts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "juicefs_csi_mountmgr_remounts_total",
			Help: "Lost mounts that serve again.",
		}),
		upgrades: newResults("juicefs_csi_mountmgr_upgrades_total", "Upgrades of clients that have ended.", committed, rolledBack),
		probes: newResults("juicefs_csi_mountmgr_probes_total", "Questions to clients by processes with a deadline.",
			string(probe.Answered), string(probe.TimedOut), string(probe.Failed)),
		spares: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "juicefs_csi_mountmgr_spare_failures_total",
			Help: "Spare mount pods that could not be made or did not stay.",
		}),
	}
	for _, each := range []prometheus.Collector{
		m.recoveries, m.handOvers, m.publishes, m.lost, m.remounts, m.upgrades, m.probes, m.spares,
	} {
		if err := registry.Register(each); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Recovered counts a client that was replaced after a crash.
func (m *Metrics) Recovered() {
	if m != nil {
		m.recoveries.Inc()
	}
}

// HandedOver counts a planned replacement, in which nobody served for pause.
func (m *Metrics) HandedOver(pause time.Duration) {
	if m != nil {
		m.handOvers.Observe(pause.Seconds())
	}
}

// Published counts a publish that took this long.
func (m *Metrics) Published(created bool, took time.Duration) {
	if m == nil {
		return
	}
	kind := "warm"
	if created {
		kind = "cold"
	}
	m.publishes.WithLabelValues(kind).Observe(took.Seconds())
}

// The results of upgrades.
const (
	committed  = "committed"
	rolledBack = "rolled_back"
)

// newResults returns a counter that shows each of the results from the
// beginning, so that the first one is an increase.
func newResults(name, help string, results ...string) *prometheus.CounterVec {
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"result"})
	for _, result := range results {
		counter.WithLabelValues(result)
	}
	return counter
}

// LostMount counts a mount that nobody can serve any more.
func (m *Metrics) LostMount() {
	if m != nil {
		m.lost.Inc()
	}
}

// Remounted counts a lost mount that serves again.
func (m *Metrics) Remounted() {
	if m != nil {
		m.remounts.Inc()
	}
}

// Upgraded counts an upgrade that has ended.
func (m *Metrics) Upgraded(kept bool) {
	if m == nil {
		return
	}
	result := rolledBack
	if kept {
		result = committed
	}
	m.upgrades.WithLabelValues(result).Inc()
}

// Probed counts a question to a client.
func (m *Metrics) Probed(result probe.Result) {
	if m != nil {
		m.probes.WithLabelValues(string(result)).Inc()
	}
}

// SpareFailed counts a spare mount pod that could not be made or did not stay.
func (m *Metrics) SpareFailed() {
	if m != nil {
		m.spares.Inc()
	}
}

// NewCollector returns the gauges of source, for a registry.
func NewCollector(source Source) prometheus.Collector {
	return &collector{
		source: source,
		mounts: prometheus.NewDesc("juicefs_csi_mountmgr_mounts",
			"Mounts of the node by state; docs/mount-states.md describes the states.", []string{"state"}, nil),
		references: prometheus.NewDesc("juicefs_csi_mountmgr_references", "Targets at which the mounts are visible.", nil, nil),
		spares:     prometheus.NewDesc("juicefs_csi_mountmgr_spares", "Spare mount pods that wait for a mount.", nil, nil),
		held: prometheus.NewDesc("juicefs_csi_mountmgr_vault_descriptors",
			"Connections that fdvault holds a copy of; missing while it is away.", nil, nil),
	}
}

type collector struct {
	source                           Source
	mounts, references, spares, held *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- c.mounts
	descriptions <- c.references
	descriptions <- c.spares
	descriptions <- c.held
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(found chan<- prometheus.Metric) {
	states, references := make(map[lifecycle.State]int), 0
	for _, record := range c.source.List() {
		states[record.State]++
		references += len(record.References)
	}
	for _, state := range lifecycle.States() {
		if state != lifecycle.Gone {
			found <- gauge(c.mounts, states[state], string(state))
		}
	}
	found <- gauge(c.references, references)
	found <- gauge(c.spares, c.source.IdleSpares())
	ctx, cancel := context.WithTimeout(context.Background(), heldTimeout)
	defer cancel()
	if held, err := c.source.Held(ctx); err == nil {
		found <- gauge(c.held, held)
	}
}

func gauge(description *prometheus.Desc, value int, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(description, prometheus.GaugeValue, float64(value), labels...)
}
