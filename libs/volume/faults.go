package volume

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/go-multierror"
)

// Sources of settings, as faults name them.
const (
	sourceSecret    = "Secret key"
	sourceAttribute = "volume attribute"
	sourceClaim     = "PersistentVolumeClaim annotation"
	sourceOption    = "mount option"
	sourceConfig    = "ConfigMap key"

	// sourcePodAnnotation is an annotation that attributes or the ConfigMap give
	// the mount pod.
	sourcePodAnnotation = "annotation of the mount pod"
)

// faults collects everything that is wrong with the user's settings, so that
// one try shows all of it.
type faults struct {
	all *multierror.Error
}

// add records one fault of the key of a source. The text must not hold values
// of the Secret.
func (f *faults) add(source, key, format string, args ...any) {
	f.all = multierror.Append(f.all, fmt.Errorf("%s %s: %s", source, key, fmt.Sprintf(format, args...)))
}

// err is nil without faults; otherwise an error that is ErrInvalidArgument.
func (f *faults) err() error {
	if f.all == nil {
		return nil
	}
	f.all.ErrorFormat = formatFaults
	return invalid{f.all}
}

// invalid is what a user got wrong. Its text is that of the faults alone.
type invalid struct {
	faults *multierror.Error
}

func (i invalid) Error() string { return i.faults.Error() }

func (i invalid) Unwrap() []error { return []error{errdefs.ErrInvalidArgument, i.faults} }

// formatFaults writes faults on one line, since events and gRPC statuses are
// shown so.
func formatFaults(faults []error) string {
	texts := make([]string, len(faults))
	for i, fault := range faults {
		texts[i] = fault.Error()
	}
	return strings.Join(texts, "; ")
}
