package api

import (
	"context"
	"log/slog"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/juicefs-csi/driver/libs/logkeys"
)

// NewObserver measures calls and logs those that failed by a fault of the
// server. Requests are not logged.
func NewObserver(logger *slog.Logger, registry prometheus.Registerer) connect.UnaryInterceptorFunc {
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "juicefs_csi_dashboard_request_duration_seconds",
		Help:    "Duration of the dashboard's calls by procedure and code.",
		Buckets: prometheus.ExponentialBuckets(0.001, 4, 7),
	}, []string{"procedure", "code"})
	registry.MustRegister(seconds)
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
			start := time.Now()
			response, err := next(ctx, request)
			code, duration := "ok", time.Since(start)
			if err != nil {
				code = connect.CodeOf(err).String()
			}
			seconds.WithLabelValues(request.Spec().Procedure, code).Observe(duration.Seconds())
			if isFault(err) {
				logger.ErrorContext(ctx, "call failed", logkeys.Method, request.Spec().Procedure,
					logkeys.Code, code, logkeys.Duration, duration, logkeys.Error, err)
			}
			return response, err
		}
	}
}

// isFault says whether the server rather than the caller is to blame.
func isFault(err error) bool {
	if err == nil {
		return false
	}
	code := connect.CodeOf(err)
	return code == connect.CodeInternal || code == connect.CodeUnknown || code == connect.CodeUnavailable
}
