package configfile

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/juicefs-csi/driver/libs/logkeys"
)

const (
	// rereadInterval is how late a change is seen of which the kernel told
	// nothing.
	rereadInterval = 5 * time.Minute
	// settleTime waits for a writer that is not done; kubelet swaps a link.
	settleTime = 100 * time.Millisecond
)

// Run follows the file until ctx ends.
func (f *File) Run(ctx context.Context) error {
	// A nil watcher has no events: the file is read at intervals.
	var events <-chan fsnotify.Event
	var failures <-chan error
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		f.log.WarnContext(ctx, "changes are seen late", logkeys.Error, err, logkeys.Duration, rereadInterval)
	} else {
		defer func() { _ = watcher.Close() }()
		events, failures = watcher.Events, watcher.Errors
	}
	reread := time.NewTicker(rereadInterval)
	defer reread.Stop()
	settled := time.NewTimer(0) // What has changed since Open.
	defer settled.Stop()
	f.follow(ctx, watcher)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			settled.Reset(settleTime)
		case err := <-failures: // Events were lost, at the worst.
			f.log.WarnContext(ctx, "watch of the configuration", logkeys.Error, err)
			settled.Reset(settleTime)
		case <-reread.C:
			f.follow(ctx, watcher)
			f.reload()
		case <-settled.C:
			f.reload()
		}
	}
}

// follow watches the directory: kubelet replaces a link in it, not the file. A
// directory that is watched already stays so; one that is missing is looked
// for again at the next reading.
func (f *File) follow(ctx context.Context, watcher *fsnotify.Watcher) {
	if watcher == nil {
		return
	}
	err := watcher.Add(filepath.Dir(f.path))
	if err != nil && !errors.Is(err, fsnotify.ErrClosed) {
		f.log.DebugContext(ctx, "directory of the configuration is not watched", logkeys.Error, err)
	}
}
