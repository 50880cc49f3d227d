package command_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/juicefs-csi/driver/cli/kubectl-jfs/internal/cluster"
	"github.com/juicefs-csi/driver/cli/kubectl-jfs/internal/command"
)

func TestMountTable(t *testing.T) {
	t.Parallel()
	got := run(t, newClient(), "mount")
	want := []string{
		"NAME NAMESPACE NODE STATUS IMAGE APPS AGE",
		"juicefs-n1-pvc-1-abcdef kube-system n1 Running mount:1.4.2 1 5m",
	}
	if diff := cmp.Diff(want, lines(got)); diff != "" {
		t.Error(diff)
	}
}

func TestMountWideNamesApps(t *testing.T) {
	t.Parallel()
	got := run(t, newClient(), "mount", "-o", "wide")
	if !strings.Contains(got, "default/app") {
		t.Errorf("no name of the application pod in\n%s", got)
	}
}

func TestMountWithoutRightToListAllPods(t *testing.T) {
	t.Parallel()
	client := newClient()
	client.PrependReactor("list", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if action.GetNamespace() == "" {
			return true, nil, apierrors.NewForbidden(corev1.Resource("pods"), "", nil)
		}
		return false, nil, nil
	})
	got := run(t, client, "mount", "-o", "wide")
	if !strings.Contains(got, "uid-app") {
		t.Errorf("the UID stands for an unknown name, got\n%s", got)
	}
}

func TestPodTable(t *testing.T) {
	t.Parallel()
	got := run(t, newClient(), "pod")
	want := []string{
		"NAMESPACE NAME STATUS CLAIMS MOUNT PODS AGE",
		"default app Running data juicefs-n1-pvc-1-abcdef 5m",
	}
	if diff := cmp.Diff(want, lines(got)); diff != "" {
		t.Error(diff)
	}
}

func TestPodNamespaces(t *testing.T) {
	t.Parallel()
	if got := lines(run(t, newClient(), "pod", "-n", "other")); len(got) != 1 {
		t.Errorf("namespace other has no JuiceFS pods, got %q", got)
	}
	if got := lines(run(t, newClient(), "pod", "-A")); len(got) != 2 {
		t.Errorf("one pod of all namespaces expected, got %q", got)
	}
}

func TestPodJSON(t *testing.T) {
	t.Parallel()
	var got struct {
		Items []struct {
			Name    string
			Volumes []struct{ Claim, Volume string }
		}
	}
	if err := json.Unmarshal([]byte(run(t, newClient(), "pod", "-o", "json")), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Items) != 1 || got.Items[0].Name != "app" || got.Items[0].Volumes[0].Volume != "pvc-1" {
		t.Errorf("unexpected %+v", got)
	}
}

func TestUnknownFormat(t *testing.T) {
	t.Parallel()
	_, err := execute(t, newClient(), "mount", "-o", "xml")
	if err == nil || !strings.Contains(err.Error(), "table, wide, json or yaml") {
		t.Errorf("error %v does not name the formats", err)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if got := run(t, newClient(), "version"); strings.TrimSpace(got) == "" {
		t.Error("no release")
	}
}

func run(t *testing.T, client *fake.Clientset, args ...string) string {
	t.Helper()
	out, err := execute(t, client, args...)
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return out
}

func execute(t *testing.T, client *fake.Clientset, args ...string) (string, error) {
	t.Helper()
	root := command.New(func(flags cluster.Flags) (*cluster.Cluster, error) {
		namespace := flags.Namespace
		if namespace == "" {
			namespace = "default"
		}
		return &cluster.Cluster{Client: client, Namespace: namespace}, nil
	})
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// lines are the lines of a table with single spaces between words.
func lines(s string) []string {
	var all []string
	for line := range strings.Lines(s) {
		all = append(all, strings.Join(strings.Fields(line), " "))
	}
	return all
}

func newClient() *fake.Clientset {
	created := metav1.NewTime(time.Now().Add(-5*time.Minute - 5*time.Second))
	return fake.NewClientset(
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "kube-system", Name: "juicefs-n1-pvc-1-abcdef", CreationTimestamp: created,
				Labels: map[string]string{"app.kubernetes.io/name": "juicefs-mount", "volume-id": "pvc-1"},
				Annotations: map[string]string{
					"juicefs-0123": "/var/lib/kubelet/pods/uid-app/volumes/kubernetes.io~csi/pvc-1/mount",
				},
			},
			Spec:   corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "jfs-mount", Image: "mount:1.4.2"}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning},
		},
		pod("default", "app", "uid-app", created, "data"),
		pod("default", "plain", "uid-plain", created, ""),
		pod("other", "disk", "uid-disk", created, "disk"),
		claim("default", "data", "pvc-1"),
		claim("other", "disk", "pvc-2"),
		volume("pvc-1", "csi.juicefs.com"),
		volume("pvc-2", "disk.example.com"),
	)
}

func pod(namespace, name string, uid types.UID, created metav1.Time, claim string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: uid, CreationTimestamp: created},
		Spec:       corev1.PodSpec{NodeName: "n1"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if claim != "" {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		}}}
	}
	return p
}

func claim(namespace, name, volumeName string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: volumeName},
	}
}

func volume(name, driver string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{
			CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: name},
		}},
	}
}
