package spare_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/spare"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// brokenPods makes pods whose jfs-launch never greets. What works with a real
// one is tested with the mount manager.
type brokenPods struct {
	spare.Pods
	// createError, and deleteErrors one by one, are what the API server answers.
	createError  error
	deleteErrors []error
	// made is told of each new pod.
	made func(name string)

	mu       sync.Mutex
	creates  int
	present  []string
	deletes  int
	connects int
}

func (b *brokenPods) CreateSpare(_ context.Context, spec mountpod.Spec, _ string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.creates++
	if b.createError != nil {
		return "", b.createError
	}
	b.present = append(b.present, spec.Name)
	if b.made != nil {
		go b.made(spec.Name)
	}
	return "uid-" + spec.Name, nil
}

func (b *brokenPods) Connect(ctx context.Context, _ store.Client) (*launcher.Session, error) {
	b.mu.Lock()
	b.connects++
	b.mu.Unlock()
	<-ctx.Done()
	return nil, ctx.Err()
}

func (*brokenPods) Reconnect(context.Context, store.Client) (*launcher.Session, error) {
	return nil, errors.New("nobody listens")
}

func (b *brokenPods) Delete(_ context.Context, client store.Client, _ time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deletes++
	if len(b.deleteErrors) > 0 {
		err := b.deleteErrors[0]
		b.deleteErrors = b.deleteErrors[1:]
		return err
	}
	b.present = slices.DeleteFunc(b.present, func(name string) bool { return name == client.PodName })
	return nil
}

// counts returns the calls so far, and how many pods there are.
func (b *brokenPods) counts() (creates, deletes, present int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.creates, b.deletes, len(b.present)
}

// lines counts the records of a log.
type lines struct {
	mu    sync.Mutex
	count int
}

func (l *lines) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count += strings.Count(string(text), "\n")
	return len(text), nil
}

// failures counts what a pool tells, which tells one thing at a time.
type failures struct{ first, all int }

func (f *failures) note(_ string, _ error, again bool) {
	f.all++
	if !again {
		f.first++
	}
}

func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// run runs a pool until the returned function is called.
func run(t *testing.T, p *spare.Pool, inUse func() map[string]bool) func() {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	if err := p.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- p.Run(ctx, inUse) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func usual() volume.Settings {
	return volume.Settings{Pod: volume.PodShape{Image: "mount:1"}}
}

func TestASpareThatCannotBeMadeIsTriedEverMoreSeldom(t *testing.T) {
	for name, pods := range map[string]*brokenPods{
		"refused":  {createError: errors.New("forbidden")},
		"no image": {made: nil},
	} {
		records := openStore(t)
		synctest.Test(t, func(t *testing.T) {
			log, failures := new(lines), new(failures)
			options := spare.Options{Node: "n", LauncherDir: "/l", Count: 1, Failed: failures.note}
			pool := spare.New(options, records, pods, slog.New(slog.NewTextHandler(log, nil)))
			if pods.createError == nil {
				pods.made = func(name string) {
					pod := &corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
						State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}},
					}}}}
					pod.Name = name
					pool.PodChanged(pod)
				}
			}
			var key string
			stop := run(t, pool, func() map[string]bool { return map[string]bool{key: true} })
			key = pool.Use(usual())
			<-time.After(time.Hour)
			synctest.Wait()
			creates, deletes, present := pods.counts()
			if creates < 60 || creates > 70 || present != 0 || deletes != creates {
				t.Errorf("%s: an hour has %d creations and %d deletions, %d pods are left", name, creates, deletes, present)
			}
			if log.count > 2 {
				t.Errorf("%s: %d lines in the log", name, log.count)
			}
			if failures.first != 1 || failures.all != creates {
				t.Errorf("%s: told of %d failures, %d of them the first, with %d creations", name, failures.all, failures.first, creates)
			}
			if taken := pool.Take(key); taken != nil {
				t.Errorf("%s: %v can be taken", name, taken.Spare)
			}
			stop()
		})
		if left, err := records.Spares(); err != nil || len(left) > 0 {
			t.Errorf("%s: spares %v, %v are recorded", name, left, err)
		}
	}
}

func TestWhatIsLeftIsDeletedUntilThatSucceeds(t *testing.T) {
	records := openStore(t)
	if err := records.PutSpare(store.Spare{PodName: "left", PodUID: "u", Shape: "of another release"}); err != nil {
		t.Fatal(err)
	}
	if err := records.PutShape(store.Shape{Key: "of another release", Pod: usual().Pod, LastUsed: time.Now()}); err != nil {
		t.Fatal(err)
	}
	pods := &brokenPods{present: []string{"left"}, deleteErrors: []error{errors.New("away"), errors.New("away")}}
	synctest.Test(t, func(t *testing.T) {
		pool := spare.New(spare.Options{Node: "n", LauncherDir: "/l", Count: 1}, records, pods, slog.New(slog.DiscardHandler))
		stop := run(t, pool, func() map[string]bool { return nil })
		<-time.After(time.Minute)
		synctest.Wait()
		if creates, deletes, present := pods.counts(); creates != 0 || deletes != 3 || present != 0 {
			t.Errorf("%d creations, %d deletions, %d pods are left", creates, deletes, present)
		}
		stop()
	})
	spares, err := records.Spares()
	shapes, shapesErr := records.Shapes()
	if len(spares)+len(shapes) > 0 || err != nil || shapesErr != nil {
		t.Errorf("recorded are still %v, %v (%v, %v)", spares, shapes, err, shapesErr)
	}
}

func TestNoSparesAreWanted(t *testing.T) {
	records := openStore(t)
	pods := new(brokenPods)
	synctest.Test(t, func(t *testing.T) {
		pool := spare.New(spare.Options{Node: "n", LauncherDir: "/l"}, records, pods, slog.New(slog.DiscardHandler))
		var key string
		stop := run(t, pool, func() map[string]bool { return map[string]bool{key: true} })
		if key = pool.Use(usual()); key == "" {
			t.Error("the shape has no key, so that no spare could be made later")
		}
		<-time.After(time.Hour)
		if creates, _, _ := pods.counts(); creates != 0 {
			t.Errorf("%d pods were made", creates)
		}
		stop()
	})
}

func TestAShapeIsForgottenAfterTheRetention(t *testing.T) {
	records := openStore(t)
	pods := new(brokenPods)
	synctest.Test(t, func(t *testing.T) {
		pool := spare.New(spare.Options{Node: "n", LauncherDir: "/l", Count: 2}, records, pods, slog.New(slog.DiscardHandler))
		used := make(chan bool, 1)
		used <- true
		var key string
		stop := run(t, pool, func() map[string]bool { return map[string]bool{key: len(used) > 0} })
		key = pool.Use(usual())
		<-time.After(time.Hour)
		if shapes, err := records.Shapes(); err != nil || len(shapes) != 1 {
			t.Errorf("shapes in use: %v, %v", shapes, err)
		}
		if _, _, present := pods.counts(); present != 2 {
			t.Errorf("%d pods, want 2", present)
		}
		<-used
		<-time.After(8 * time.Minute)
		if _, _, present := pods.counts(); present != 2 {
			t.Errorf("%d pods within the retention, want 2", present)
		}
		<-time.After(5 * time.Minute)
		synctest.Wait()
		if _, _, present := pods.counts(); present != 0 {
			t.Errorf("%d pods after the retention", present)
		}
		stop()
	})
	if shapes, err := records.Shapes(); err != nil || len(shapes) != 0 {
		t.Errorf("shapes after the retention: %v, %v", shapes, err)
	}
}
