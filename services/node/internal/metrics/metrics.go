// Package metrics counts what kubelet asks the node plugin for, under the names
// of the existing driver.
package metrics

import (
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the metrics of one node. A nil one counts nothing. It is safe for
// concurrent use.
type Metrics struct {
	publishErrors   prometheus.Counter
	unpublishErrors prometheus.Counter
	paths           *paths
}

// New registers the metrics; node is the value of their label node_name.
func New(registry prometheus.Registerer, node string) (*Metrics, error) {
	labels := prometheus.Labels{"node_name": node}
	m := &Metrics{
		publishErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "juicefs_volume_errors", Help: "Volumes that could not be published to a pod, each try counted.", ConstLabels: labels,
		}),
		unpublishErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "juicefs_volume_del_errors", Help: "Volumes that could not be taken away from a pod, each try counted.", ConstLabels: labels,
		}),
		paths: newPaths(labels),
	}
	for _, each := range []prometheus.Collector{m.publishErrors, m.unpublishErrors, m.paths} {
		if err := registry.Register(each); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// Published counts a failed publish.
func (m *Metrics) Published(err error) {
	if m != nil && err != nil {
		m.publishErrors.Inc()
	}
}

// Unpublished counts a failed unpublish, and forgets the health of a path that
// shows no volume any more.
func (m *Metrics) Unpublished(path string, err error) {
	switch {
	case m == nil:
	case err != nil:
		m.unpublishErrors.Inc()
	default:
		m.paths.drop(path)
	}
}

// Health is what is known of a volume at a path.
type Health int

// What is known.
const (
	// Unknown changes nothing: who knows could not be asked.
	Unknown Health = iota
	// Absent is a path that shows no volume.
	Absent
	// Abnormal is a volume whose client does not answer, or wrongly.
	Abnormal
	// Healthy is a volume whose client answers.
	Healthy
)

// Ask tells that somebody asks for the health of a volume now; the returned
// function must be called with the answer.
func (m *Metrics) Ask(volumeID, path string) (answered func(Health)) {
	if m == nil {
		return func(Health) {}
	}
	m.paths.begin(path)
	return func(health Health) { m.paths.end(volumeID, path, health) }
}

// podUID is the uid of the pod that a target path of kubelet belongs to; empty
// for other paths.
func podUID(path string) string {
	_, below, _ := strings.Cut(path, "/pods/")
	uid, _, found := strings.Cut(below, "/volumes/")
	if !found {
		return ""
	}
	return uid
}
