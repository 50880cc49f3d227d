package deletion

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protojson"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/juicefs-csi/driver/libs/volume"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/controller/internal/installation"
)

const namespace = "mounts"

func testVolume() Volume {
	return Volume{
		ID: "pvc-1",
		Attributes: map[string]string{
			"subPath": "pvc-1", "capacity": "1073741824", "mountOptions": "subdir=tenant", "juicefs/host-path": "/data",
		},
		MountOptions: []string{"ro", "cache-dir=/mnt/ssd", "metrics=0.0.0.0:9567"},
		Secret: map[string]string{
			"name": "myjfs", "metaurl": "redis://:SECRET@host/1", "storage": "s3", "bucket": "b", "secret-key": "SECRET",
			"configs": "{aws: /root/.aws}",
		},
	}
}

func testRemover(client *fake.Clientset) *Remover {
	return &Remover{
		Client: client, Namespace: namespace, LauncherImage: "launcher", ServiceAccount: "sa", Pause: time.Millisecond,
		Installation: installation.Installation{Defaults: volume.Defaults{CommunityImage: "client"}},
	}
}

// runJobs plays the Job controller: a Job that is no longer suspended ends at
// once, by the condition.
func runJobs(client *fake.Clientset, condition batchv1.JobConditionType) {
	client.PrependReactor("patch", "jobs", func(action clienttesting.Action) (bool, runtime.Object, error) {
		patch, isPatch := action.(clienttesting.PatchAction)
		object, err := client.Tracker().Get(action.GetResource(), action.GetNamespace(), patch.GetName())
		job, isJob := object.(*batchv1.Job)
		if err != nil || !isPatch || !isJob {
			return true, nil, err
		}
		job = job.DeepCopy()
		job.Spec.Suspend = new(false)
		job.Status.Conditions = []batchv1.JobCondition{{Type: condition, Status: corev1.ConditionTrue, Message: "backoff limit"}}
		return true, job, client.Tracker().Update(action.GetResource(), job, action.GetNamespace())
	})
}

func TestRemove(t *testing.T) {
	client := fake.NewClientset()
	var job *batchv1.Job
	var secret *corev1.Secret
	runJobs(client, batchv1.JobComplete)
	client.PrependReactor("create", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		switch object := action.(clienttesting.CreateAction).GetObject().(type) {
		case *batchv1.Job:
			object.UID = "uid-of-job"
			job = object
		case *corev1.Secret:
			secret = object
		}
		return false, nil, nil
	})
	if err := testRemover(client).Remove(t.Context(), testVolume()); err != nil {
		t.Fatal(err)
	}
	checkJob(t, job)
	checkSecret(t, secret, job)
	_, err := client.BatchV1().Jobs(namespace).Get(t.Context(), job.Name, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("get of the finished job: %v, want it gone", err)
	}
}

func checkJob(t *testing.T, job *batchv1.Job) {
	t.Helper()
	if job.Name != JobName("pvc-1") || len(job.Name) > 63 || !*job.Spec.Suspend {
		t.Errorf("job is %s, suspended %v", job.Name, job.Spec.Suspend)
	}
	pod := job.Spec.Template.Spec
	command := strings.Join(pod.Containers[0].Command, " ")
	if want := "/opt/juicefs-csi/jfs-launch remove --spec=/run/spec/spec.json --path=/pvc-1 --timeout=1h0m0s"; command != want {
		t.Errorf("command %q, want %q", command, want)
	}
	if pod.Containers[0].Image != "client" || pod.InitContainers[0].Image != "launcher" || *pod.AutomountServiceAccountToken {
		t.Errorf("pod %+v", pod)
	}
	for _, container := range append(pod.InitContainers, pod.Containers...) {
		security := container.SecurityContext
		if *security.Privileged || *security.AllowPrivilegeEscalation || security.Capabilities.Drop[0] != "ALL" {
			t.Errorf("container %s is privileged: %+v", container.Name, security)
		}
	}
	sources := map[string]string{}
	for i, mounted := range pod.Containers[0].VolumeMounts {
		sources[mounted.MountPath] = pod.Volumes[i].Name
	}
	if sources["/data"] == "" || sources["/root/.aws"] == "" || sources["/mnt/ssd"] != "" {
		t.Errorf("volumes %v", sources)
	}
}

func checkSecret(t *testing.T, secret *corev1.Secret, job *batchv1.Job) {
	t.Helper()
	if owners := secret.OwnerReferences; len(owners) != 1 || owners[0].UID != job.UID || owners[0].Kind != "Job" {
		t.Errorf("owners of the secret are %+v", owners)
	}
	var spec launchv1.Spec
	if err := protojson.Unmarshal(secret.Data["spec.json"], &spec); err != nil {
		t.Fatal(err)
	}
	argv := strings.Join(spec.GetClient().GetArgv(), " ")
	for _, part := range []string{"redis://:@host/1 /jfs -o", "subdir=tenant", "cache-dir=memory", "no-bgjob"} {
		if !strings.Contains(argv, part) {
			t.Errorf("client %q lacks %q", argv, part)
		}
	}
	for _, part := range []string{"SECRET", "pvc-1", ",ro", "/mnt/ssd"} {
		if strings.Contains(argv, part) {
			t.Errorf("client %q must not have %q", argv, part)
		}
	}
	var stages []string
	for _, stage := range spec.GetStages() {
		stages = append(stages, stage.GetName())
	}
	if want := []string{"metadata engine", "format"}; !slices.Equal(stages, want) {
		t.Errorf("stages %v, want %v", stages, want)
	}
}

func TestRemoveTellsWhyAJobFailed(t *testing.T) {
	client := fake.NewClientset(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: "pod", Labels: map[string]string{batchv1.JobNameLabel: JobName("pvc-1")},
		},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{
				ExitCode: 1, Message: `{"stage":"format","code":1,"stderr":["a","b","c","<FATAL>: access denied"]}`,
			},
		}}}},
	})
	runJobs(client, batchv1.JobFailed)
	err := testRemover(client).Remove(t.Context(), testVolume())
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "format: exit code 1: b; c; <FATAL>: access denied") {
		t.Errorf("got %v", err)
	}
	if _, err := client.BatchV1().Jobs(namespace).Get(t.Context(), JobName("pvc-1"), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get of the failed job: %v, want it gone so that the next try starts a new one", err)
	}
}

func TestRemoveWaitsForTheSameJob(t *testing.T) {
	client := fake.NewClientset()
	created := 0
	client.PrependReactor("create", "jobs", func(clienttesting.Action) (bool, runtime.Object, error) {
		created++
		return false, nil, nil
	})
	remover := testRemover(client)
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		err := remover.Remove(ctx, testVolume())
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want a deadline", err)
		}
	}
	jobs := client.BatchV1().Jobs(namespace)
	job, err := jobs.Get(t.Context(), JobName("pvc-1"), metav1.GetOptions{})
	if err != nil || *job.Spec.Suspend {
		t.Fatalf("job %v, %v, want it to run", job, err)
	}
	job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
	if _, err := jobs.UpdateStatus(t.Context(), job, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := remover.Remove(t.Context(), testVolume()); err != nil || created != 1 {
		t.Errorf("got %v after %d jobs, want success of the first", err, created)
	}
}

func TestRemoveResumesAJobWithoutItsSecret(t *testing.T) {
	client := fake.NewClientset()
	client.PrependReactor("create", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("the controller was killed here")
	})
	if err := testRemover(client).Remove(t.Context(), testVolume()); err == nil {
		t.Fatal("the first try succeeded")
	}
	client.ReactionChain = client.ReactionChain[1:]
	runJobs(client, batchv1.JobComplete)
	if err := testRemover(client).Remove(t.Context(), testVolume()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Secrets(namespace).Get(t.Context(), JobName("pvc-1"), metav1.GetOptions{}); err != nil {
		t.Errorf("get of the secret: %v", err)
	}
}

func TestRemoveRefusesTheRoot(t *testing.T) {
	for _, subPath := range []string{"", "/", ".", "//", "./.", "..", "a/../..", ".snapshots/x", ".trash"} {
		client := fake.NewClientset()
		v := testVolume()
		v.Attributes["subPath"] = subPath
		if err := testRemover(client).Remove(t.Context(), v); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %v, want it refused", subPath, err)
		}
		if len(client.Actions()) != 0 {
			t.Errorf("%q: %v", subPath, client.Actions())
		}
	}
}

func TestExplainPod(t *testing.T) {
	for want, status := range map[string]corev1.PodStatus{
		"pod p: ImagePullBackOff: no such image": {ContainerStatuses: []corev1.ContainerStatus{{
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "no such image"}},
		}}},
		"pod p: Unschedulable: no node": {Conditions: []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "no node",
		}}},
		"pod p: evicted": {Phase: corev1.PodFailed, Reason: "Evicted", Message: "evicted"},
		"exit code 2: y; z; end": {InitContainerStatuses: []corev1.ContainerStatus{{
			State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 2, Message: "x\ny\nz\nend\n"}},
		}}},
		"": {Phase: corev1.PodRunning},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: status}
		if got := explainPod(pod); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
