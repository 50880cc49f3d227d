package nodepods

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/juicefs-csi/driver/libs/logkeys"
)

// podMetrics tell which source is asked.
type podMetrics struct {
	fromKubelet prometheus.Gauge
	errors      *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer) (podMetrics, error) {
	m := podMetrics{
		fromKubelet: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "juicefs_csi_mountmgr_pods_from_kubelet",
			Help: "1 when kubelet tells which pods are on the node, 0 when the API server is asked instead.",
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "juicefs_csi_mountmgr_kubelet_errors_total",
			Help: "Questions to kubelet that failed, by cause: refused, certificate, timeout or other.",
		}, []string{"cause"}),
	}
	for _, cause := range []string{causeRefused, causeCertificate, causeTimeout, causeOther} {
		m.errors.WithLabelValues(cause)
	}
	for _, each := range []prometheus.Collector{m.fromKubelet, m.errors} {
		if err := registry.Register(each); err != nil {
			return podMetrics{}, fmt.Errorf("register metrics of the node's pods: %w", err)
		}
	}
	return m, nil
}

// Causes of kubelet's failures.
const (
	causeRefused     = "refused"
	causeCertificate = "certificate"
	causeTimeout     = "timeout"
	causeOther       = "other"
)

func causeOf(err error) string {
	var verification *tls.CertificateVerificationError
	switch {
	case errdefs.IsPermissionDenied(err):
		return causeRefused
	case errors.As(err, &verification):
		return causeCertificate
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return causeTimeout
	}
	return causeOther
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && timeout.Timeout()
}

// poll asks the present source once.
func (s *Source) poll(ctx context.Context) {
	if s.options.Kubelet != nil && !s.now().Before(s.retryAt) && s.pollKubelet(ctx) {
		return
	}
	if s.retryAt.IsZero() && s.options.Kubelet != nil {
		return // Kubelet's error is tolerated.
	}
	pods, err := s.options.Fallback.List(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		s.fail(err)
		return
	}
	s.keep(pods)
}

// pollKubelet reports whether kubelet has answered. After an error that will not
// pass soon, or some in a row, the API server is asked for a minute.
func (s *Source) pollKubelet(ctx context.Context) bool {
	pods, err := s.options.Kubelet.List(ctx)
	if ctx.Err() != nil {
		return true
	}
	if err == nil {
		if !s.retryAt.IsZero() {
			s.options.Log.InfoContext(ctx, "kubelet answers again and tells the pods of the node")
			s.options.Fallback.Stop()
		}
		s.failures, s.retryAt = 0, time.Time{}
		s.metrics.fromKubelet.Set(1)
		s.keep(pods)
		return true
	}
	cause := causeOf(err)
	s.metrics.errors.WithLabelValues(cause).Inc()
	s.failures++
	s.fail(err)
	if cause == causeOther && s.failures < toleratedErrors {
		return false
	}
	if s.retryAt.IsZero() { // Once, not at each retry.
		s.options.Log.WarnContext(ctx, "kubelet does not tell the pods of the node; the API server is asked",
			logkeys.Reason, cause, logkeys.Error, err)
	}
	s.metrics.fromKubelet.Set(0)
	s.retryAt = s.now().Add(retryKubelet)
	return false
}
