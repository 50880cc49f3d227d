package manager

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// newStored is a manager with mounts that serve and whose goroutines do not
// run: what the store and the index do, and nothing else.
func newStored(tb testing.TB, mounts int) *Manager {
	tb.Helper()
	records, err := store.Open(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = records.Close() })
	private, err := os.MkdirTemp("/dev/shm", "secrets") //nolint:usetesting // a tmpfs
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(private) })
	secrets, err := store.OpenSecrets(private)
	if err != nil {
		tb.Fatal(err)
	}
	m := New(Options{
		KubeletDir: "/k", Config: func() (volume.Config, error) { return volume.Config{}, nil },
		Defaults: volume.Defaults{CommunityImage: "mount:1", MountRoot: "/m", CacheDir: "/c", ShareMode: volume.ShareByVolume},
	}, Parts{Store: records, Secrets: secrets, Log: slog.New(slog.DiscardHandler)})
	ended, cancel := context.WithCancel(context.Background())
	cancel() // The goroutines of mounts end at once.
	m.lifetime = ended
	for i := range mounts {
		request := requestFor(i, 0)
		if _, err := m.acquire(request, known{complete: true}, referenceOf(request)); err != nil {
			tb.Fatal(err)
		}
	}
	m.running.Wait()
	for _, each := range m.all() {
		if err := each.update(func(r *store.Record) error { r.State = lifecycle.Serving; return nil }); err != nil {
			tb.Fatal(err)
		}
	}
	return m
}

func requestFor(volumeNumber, target int) PublishRequest {
	return PublishRequest{
		VolumeID:   fmt.Sprintf("pv-%d", volumeNumber),
		TargetPath: fmt.Sprintf("/k/pods/app-%d-%d/volumes/x/mount", volumeNumber, target),
		Secret:     map[string]string{"name": "test", "metaurl": "redis://r/1"},
	}
}

func referenceOf(request PublishRequest) store.Reference {
	return store.Reference{VolumeID: request.VolumeID, TargetPath: request.TargetPath, AccessMode: request.AccessMode, Since: time.Now().UTC()}
}

// However many publish at once, there is one mount for a volume and one
// reference for a target, in the index as on disk.
func TestManyTargetsAtOnceShareOneMount(t *testing.T) {
	m := newStored(t, 0)
	var work sync.WaitGroup
	ids := make([]string, 100)
	for i := range ids {
		work.Go(func() {
			request := requestFor(i%2, i)
			got, err := m.acquire(request, known{complete: true}, referenceOf(request))
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = got.id
			if i%3 == 0 {
				if err := got.dropReference(request.TargetPath); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	m.running.Wait()
	slices.Sort(ids)
	if unique := slices.Compact(ids); len(unique) != 2 {
		t.Errorf("two volumes have the mounts %v", unique)
	}
	records, err := m.Store.Mounts()
	if err != nil || len(records) != 2 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	count := 0
	for _, record := range records {
		for _, reference := range record.References {
			count++
			if held := m.byTarget(reference.TargetPath); held == nil || held.id != record.ID {
				t.Errorf("target %s is not in the index", reference.TargetPath)
			}
		}
	}
	if count != 66 || len(m.index.targets) != 66 || len(m.index.volumes) != 2 {
		t.Errorf("%d references on disk, %d in the index, %d volumes", count, len(m.index.targets), len(m.index.volumes))
	}
}

func TestATargetThatGetsNoMountIsFree(t *testing.T) {
	m := newStored(t, 0)
	wrong := requestFor(1, 1)
	wrong.Secret = nil
	if _, err := m.acquire(wrong, known{complete: true}, referenceOf(wrong)); !errdefs.IsInvalidArgument(err) {
		t.Fatalf("acquire = %v, want an invalid argument", err)
	}
	if len(m.index.targets)+len(m.index.volumes)+len(m.mounts) != 0 {
		t.Errorf("something is left: %v", m.index)
	}
	single := requestFor(1, 1)
	single.AccessMode = store.SingleNodeSingleWriter
	got, err := m.acquire(single, known{complete: true}, referenceOf(single))
	if err != nil {
		t.Fatal(err)
	}
	second := single
	second.TargetPath = "/k/pods/other/volumes/x/mount"
	if _, err := m.acquire(second, known{complete: true}, referenceOf(second)); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a second target = %v, want a failed precondition", err)
	}
	if again, err := m.acquire(single, known{complete: true}, referenceOf(single)); err != nil || !again.repeated || again.id != got.id {
		t.Errorf("the same target again: %+v, %v", again, err)
	}
	if err := got.dropReference(single.TargetPath); err != nil {
		t.Fatal(err)
	}
	if _, err := m.acquire(second, known{complete: true}, referenceOf(second)); err != nil {
		t.Errorf("after the first target: %v", err)
	}
}

// BenchmarkAcquire is what the store and the index cost a warm publish and the
// unpublish after it, of 32 callers at a time on a node with 200 mounts.
func BenchmarkAcquire(b *testing.B) {
	const mounts, callers = 200, 32
	m := newStored(b, mounts)
	took := make([][]time.Duration, callers)
	b.ResetTimer()
	var work sync.WaitGroup
	for caller := range callers {
		work.Go(func() {
			for i := caller; i < b.N; i += callers {
				request := requestFor(i%mounts, i+1)
				began := time.Now()
				got, err := m.acquire(request, known{complete: true}, referenceOf(request))
				took[caller] = append(took[caller], time.Since(began))
				if err == nil {
					err = got.dropReference(request.TargetPath)
				}
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	work.Wait()
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
}
