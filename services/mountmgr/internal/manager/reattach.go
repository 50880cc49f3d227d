package manager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/mountinfo"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/reattach"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

const (
	// reattachTimeout bounds all attempts to attach what a lost connection was
	// shown at.
	reattachTimeout = 30 * time.Second
	// jobTimeout bounds one process that does so.
	jobTimeout = 10 * time.Second
	// jobPaths is how many mount points one process gets: they are an argument
	// of it.
	jobPaths = 64
	// jobsAtOnce is how many containers are entered at one time.
	jobsAtOnce = 8
	// proc is the node's: the mount manager shares its process ids.
	proc = "/proc"
)

// reattach has everything show the new connection that showed a lost one, and
// describes what cannot. It looks until there is nothing to do any more, since
// containers are started meanwhile. It fails when the new connection has ended.
func (m *mount) reattach(ctx context.Context) (string, error) {
	limited, cancel := context.WithTimeout(ctx, reattachTimeout)
	defer cancel()
	for {
		report, err := m.reattachOnce(limited)
		if err == nil && len(report.Replaced) == 0 && !report.Retry() || limited.Err() != nil {
			if ctx.Err() != nil {
				return "", ctx.Err()
			}
			return describeLeft(m.unattached(report)), nil
		}
		if m.connectionEnded(ctx) {
			return "", errConnectionEnded
		}
		m.log.InfoContext(ctx, "attached again", logkeys.Entries, len(report.Replaced), logkeys.Error, errors.Join(err, leftError(report)))
		if len(report.Replaced) == 0 {
			pause(limited, retryInterval)
		}
	}
}

// leftError is the first cause for which something is left; nil for none.
func leftError(report reattach.Report) error {
	if len(report.Left) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %s (%d in all): %w", report.Left[0].Path, report.Left[0].Reason, len(report.Left), errdefs.ErrUnavailable)
}

// unattached describes what a report has left, and the targets that show
// something else for whatever reason.
func (m *mount) unattached(report reattach.Report) []string {
	var left []string
	for _, each := range report.Left {
		left = append(left, each.Path+" ("+each.Reason+")")
	}
	record := m.snapshot()
	entries, err := mountinfo.All()
	if err != nil {
		return append(left, err.Error())
	}
	stale := reattach.Connection{Minor: record.DeviceMinor, Lost: record.PreviousMinors()}
	for _, path := range reattach.Visible(entries, stale, targets(record)) {
		if !slices.ContainsFunc(report.Left, func(each reattach.Left) bool { return each.Path == path }) {
			left = append(left, path)
		}
	}
	return left
}

// reattachOnce does what there is to do now.
func (m *mount) reattachOnce(ctx context.Context) (reattach.Report, error) {
	record := m.snapshot()
	connection := reattach.Connection{Minor: record.DeviceMinor, Lost: record.PreviousMinors()}
	entries, err := mountinfo.All()
	if err != nil {
		return reattach.Report{}, err
	}
	kubeletDir, paths := m.manager.options.KubeletDir, targets(record)
	namespaces, err := reattach.Namespaces(proc, reattach.PodUIDs(kubeletDir, paths), connection)
	var jobs []reattach.Job
	for chunk := range slices.Chunk(reattach.Paths(entries, connection, kubeletDir, paths), jobPaths) {
		jobs = append(jobs, reattach.Job{Connection: connection, MountPath: record.MountPath, Paths: chunk})
	}
	for _, namespace := range namespaces {
		jobs = append(jobs, reattach.Job{Connection: connection, MountPath: record.MountPath, Namespace: &namespace})
	}
	report := m.doJobs(ctx, jobs)
	return report, errors.Join(err, m.attachMissing(ctx, record))
}

// doJobs runs a process for each job, some at a time.
func (m *mount) doJobs(ctx context.Context, jobs []reattach.Job) reattach.Report {
	var all reattach.Report
	var mu sync.Mutex
	var running sync.WaitGroup
	places := make(chan struct{}, jobsAtOnce)
	for _, job := range jobs {
		places <- struct{}{}
		running.Go(func() {
			defer func() { <-places }()
			ctx, cancel := context.WithTimeout(ctx, jobTimeout)
			defer cancel()
			report, err := m.manager.Prober.Reattach(ctx, job)
			if err != nil {
				report = failedJob(job, err)
			}
			mu.Lock()
			defer mu.Unlock()
			all.Add(report)
		})
	}
	running.Wait()
	return all
}

func failedJob(job reattach.Job, cause error) reattach.Report {
	paths := job.Paths
	if job.Namespace != nil {
		paths = []string{fmt.Sprintf("container of process %d", job.Namespace.PID)}
	}
	var report reattach.Report
	for _, path := range paths {
		report.Left = append(report.Left, reattach.Left{Path: path, Reason: cause.Error(), Retry: true})
	}
	return report
}

// attachMissing attaches the targets at which somebody has unmounted the lost
// connection. Those that a call works on are left to it.
func (m *mount) attachMissing(ctx context.Context, record store.Record) error {
	var failed error
	for _, reference := range record.References {
		if _, err := mountinfo.ByPath(reference.TargetPath); !errdefs.IsNotFound(err) {
			continue
		}
		unlock, err := m.manager.lockTarget(reference.TargetPath)
		if err != nil {
			continue
		}
		if m.shows(reference.VolumeID, reference.TargetPath) {
			failed = errors.Join(failed, m.manager.attach(ctx, record, reference))
		}
		unlock()
	}
	return failed
}
