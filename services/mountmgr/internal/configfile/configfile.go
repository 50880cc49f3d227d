// Package configfile follows config.yaml of the driver's ConfigMap. A file that
// cannot be used leaves the settings as they were.
package configfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/volume"
)

// File is the configuration of the driver. It is safe for concurrent use.
type File struct {
	path    string
	log     *slog.Logger
	report  func(fault error)
	valid   prometheus.Gauge
	reloads *prometheus.CounterVec

	mu   sync.Mutex
	read bool
	text []byte
	// config is the last good one; good says whether there was one.
	config volume.Config
	good   bool
	// fault is what is wrong with the file now.
	fault error
}

// Options are what a File works with.
type Options struct {
	// Path of the file, which need not exist: every setting has its default
	// then.
	Path     string
	Log      *slog.Logger
	Registry prometheus.Registerer
	// Report is called with what is wrong whenever that changes, and with nil
	// when a fault was mended. It may be nil, and must not block.
	Report func(fault error)
}

// Open reads the file. A file that cannot be used is no error here: Config tells
// of it.
func Open(options Options) (*File, error) {
	f := &File{
		path: options.Path, log: options.Log.With(logkeys.Path, options.Path), report: options.Report,
		valid: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "juicefs_csi_mountmgr_config_valid",
			Help: "1 when the driver's ConfigMap can be used, 0 when its last good content is used instead.",
		}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "juicefs_csi_mountmgr_config_reloads_total",
			Help: "Contents of the driver's ConfigMap that were read and accepted or refused.",
		}, []string{"result"}),
	}
	for _, result := range []string{accepted, refused} {
		f.reloads.WithLabelValues(result)
	}
	for _, each := range []prometheus.Collector{f.valid, f.reloads} {
		if err := options.Registry.Register(each); err != nil {
			return nil, fmt.Errorf("register metrics of the configuration: %w", err)
		}
	}
	f.reload()
	return f, nil
}

// Results of reading, as the metric has them.
const (
	accepted = "accepted"
	refused  = "refused"
)

// Config returns the settings, which the caller must not change: those of the
// last good file. errdefs.ErrFailedPrecondition when there was none since the
// start.
func (f *File) Config() (volume.Config, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.good {
		// The text, without the sentinel of a wrong request.
		return volume.Config{}, fmt.Errorf("%s: %s: mend the ConfigMap: %w", f.path, f.fault.Error(), errdefs.ErrFailedPrecondition)
	}
	return f.config, nil
}

// reload reads the file and takes over what is new in it.
func (f *File) reload() {
	text, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = nil, nil
	}
	config := volume.Config{}
	if err == nil {
		config, err = f.parse(text)
	}
	if errors.Is(err, errUnchanged) {
		return
	}
	f.settle(text, config, err)
}

// errUnchanged says that the file has not changed since it was read.
var errUnchanged = errors.New("unchanged")

func (f *File) parse(text []byte) (volume.Config, error) {
	f.mu.Lock()
	same := f.read && bytes.Equal(text, f.text)
	f.mu.Unlock()
	if same {
		return volume.Config{}, errUnchanged
	}
	return volume.ParseConfig(text)
}

// settle takes over what was read and tells of it.
func (f *File) settle(text []byte, config volume.Config, fault error) {
	f.mu.Lock()
	mended := fault == nil && f.fault != nil
	told := fault != nil && f.fault != nil && fault.Error() == f.fault.Error()
	good := f.good
	// A file that could not be read says nothing about what it holds.
	f.read, f.text, f.fault = fault == nil || text != nil, text, fault
	if fault == nil {
		f.config, f.good = config, true
	}
	f.mu.Unlock()

	switch {
	case told:
		return
	case fault != nil:
		f.valid.Set(0)
		f.reloads.WithLabelValues(refused).Inc()
		f.log.Error("configuration is not used", logkeys.Error, fault, logkeys.Message, consequence(good))
	default:
		f.valid.Set(1)
		f.reloads.WithLabelValues(accepted).Inc()
		f.log.Info("configuration read")
		if keys := config.Unapplied(); len(keys) > 0 {
			f.log.Warn("settings without effect in this release", logkeys.Keys, keys)
		}
	}
	if f.report != nil && (fault != nil || mended) {
		f.report(fault)
	}
}

func consequence(good bool) string {
	if good {
		return "the settings before go on"
	}
	return "no volume is mounted until it is mended"
}
