// Package kubelog sends what the libraries of Kubernetes log to the log of the
// service.
package kubelog

import (
	"log/slog"

	"k8s.io/klog/v2" //nolint:depguard // the one place that bridges it
)

// Bridge makes logger the log of the libraries of Kubernetes, for the whole
// process. Call it once, before they are used.
func Bridge(logger *slog.Logger) {
	klog.SetSlogLogger(logger)
}
