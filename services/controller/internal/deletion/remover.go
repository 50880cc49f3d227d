package deletion

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protojson"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/juicefs-csi/driver/services/controller/internal/installation"
)

// A Job is watched, and looked at all the same after maxPause; waitTimeout is
// for one call.
const (
	maxPause    = 10 * time.Second
	waitTimeout = 40 * time.Second
)

// Remover removes directories of volumes by Jobs.
type Remover struct {
	Client       kubernetes.Interface
	Installation installation.Installation
	// Namespace is where the Jobs run: the mount namespace.
	Namespace string
	// LauncherImage holds /jfs-launch.
	LauncherImage string
	// ServiceAccount runs the Jobs; it needs no right. Empty for the default.
	ServiceAccount string
	// Pause is the longest wait between two looks at a Job; 0 for the default.
	Pause time.Duration
}

// Remove removes the directory of the volume; a directory that is not there is
// no error. It blocks until the Job has finished, at most 40 s. A Job that needs
// longer goes on: the error is then context.DeadlineExceeded, and the next call
// waits for the same Job. The error of a Job that failed holds what its client
// said; the next call starts a new one.
func (r *Remover) Remove(ctx context.Context, v Volume) error {
	settings, directory, err := settingsFor(r.Installation, v)
	if err != nil {
		return fmt.Errorf("remove volume %s: %w", v.ID, err)
	}
	plan := plan{
		name: JobName(v.ID), namespace: r.Namespace, volumeID: v.ID, path: directory, settings: settings,
		launcherImage: r.LauncherImage, serviceAccount: r.ServiceAccount,
	}
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	if err := r.start(ctx, plan); err != nil {
		return fmt.Errorf("remove volume %s: %w", v.ID, err)
	}
	if err := r.wait(ctx, plan); err != nil {
		return fmt.Errorf("remove directory %s of volume %s: %w", directory, v.ID, err)
	}
	return nil
}

// start makes sure that the Job exists and runs. The Job comes first and waits
// suspended, so that its Secret has an owner from the beginning and can never be
// left behind.
func (r *Remover) start(ctx context.Context, plan plan) error {
	jobs := r.Client.BatchV1().Jobs(plan.namespace)
	job, err := jobs.Get(ctx, plan.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		wanted, err := plan.job()
		if err != nil {
			return err
		}
		job, err = jobs.Create(ctx, wanted, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create job %s/%s: %w", plan.namespace, plan.name, err)
		}
	} else if err != nil {
		return fmt.Errorf("get job %s/%s: %w", plan.namespace, plan.name, err)
	}
	if job.DeletionTimestamp != nil {
		return fmt.Errorf("job %s/%s of the last try is not gone yet: %w", plan.namespace, plan.name, errdefs.ErrUnavailable)
	}
	if job.Spec.Suspend == nil || !*job.Spec.Suspend {
		return nil
	}
	if err := r.storeSpec(ctx, plan, job); err != nil {
		return err
	}
	_, err = jobs.Patch(ctx, plan.name, types.MergePatchType, []byte(`{"spec":{"suspend":false}}`), metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("start job %s/%s: %w", plan.namespace, plan.name, err)
	}
	return nil
}

// storeSpec stores what jfs-launch runs, with the credentials, in a Secret that
// goes with the Job.
func (r *Remover) storeSpec(ctx context.Context, plan plan, owner *batchv1.Job) error {
	spec, err := protojson.Marshal(plan.settings.LaunchSpec(plan.volumeID, mountPoint))
	if err != nil {
		return fmt.Errorf("encode spec of job %s: %w", plan.name, err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: plan.name, Namespace: plan.namespace, Labels: owner.Labels,
			// Without blockOwnerDeletion, which needs a right on the finalizers
			// of Jobs where Kubernetes checks that.
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job", Name: owner.Name, UID: owner.UID,
			}},
		},
		Data: map[string][]byte{specKey: spec},
	}
	secrets := r.Client.CoreV1().Secrets(plan.namespace)
	_, err = secrets.Create(ctx, secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("store spec of job %s/%s: %w", plan.namespace, plan.name, err)
	}
	return nil
}

// wait waits for the end of the Job and deletes it then.
func (r *Remover) wait(ctx context.Context, plan plan) error {
	for {
		job, err := r.Client.BatchV1().Jobs(plan.namespace).Get(ctx, plan.name, metav1.GetOptions{})
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("job %s/%s goes on%s: %w", plan.namespace, plan.name, suffix(r.explain(ctx, plan)), ctx.Err())
		case apierrors.IsNotFound(err):
			return fmt.Errorf("job %s/%s was deleted before it finished: %w", plan.namespace, plan.name, errdefs.ErrAborted)
		case err != nil:
			return fmt.Errorf("get job %s/%s: %w", plan.namespace, plan.name, err)
		}
		if condition := finished(job); condition != nil {
			return r.finish(ctx, plan, job, condition)
		}
		if err := r.watch(ctx, plan, job); err != nil {
			return err
		}
	}
}

// watch returns when the Job may have ended, or after a while.
func (r *Remover) watch(ctx context.Context, plan plan, job *batchv1.Job) error {
	events, err := r.Client.BatchV1().Jobs(plan.namespace).Watch(ctx, metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector("metadata.name", plan.name).String(),
		ResourceVersion: job.ResourceVersion,
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("watch job %s/%s: %w", plan.namespace, plan.name, err)
	}
	if err != nil {
		return nil
	}
	defer events.Stop()
	pause := r.Pause
	if pause == 0 {
		pause = maxPause
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			return nil
		case event, open := <-events.ResultChan():
			changed, isJob := event.Object.(*batchv1.Job)
			if !open || !isJob || event.Type == watch.Deleted || finished(changed) != nil {
				return nil
			}
		}
	}
}

// finished is the condition that says how the Job ended, or nil while it runs.
func finished(job *batchv1.Job) *batchv1.JobCondition {
	for i, condition := range job.Status.Conditions {
		ended := condition.Type == batchv1.JobComplete || condition.Type == batchv1.JobFailed
		if ended && condition.Status == corev1.ConditionTrue {
			return &job.Status.Conditions[i]
		}
	}
	return nil
}

// finish deletes the Job. A Job that succeeded must be gone before success is
// returned: a volume of the same name could be made and deleted again.
func (r *Remover) finish(ctx context.Context, plan plan, job *batchv1.Job, condition *batchv1.JobCondition) error {
	var failure error
	if condition.Type == batchv1.JobFailed {
		reason := r.explain(ctx, plan)
		if reason == "" {
			reason = condition.Message
		}
		failure = fmt.Errorf("job %s/%s failed%s: %w", plan.namespace, plan.name, suffix(reason), errdefs.ErrUnavailable)
	}
	background := metav1.DeletePropagationBackground
	err := r.Client.BatchV1().Jobs(plan.namespace).Delete(ctx, plan.name, metav1.DeleteOptions{
		PropagationPolicy: &background,
		Preconditions:     &metav1.Preconditions{UID: &job.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) && failure == nil {
		return fmt.Errorf("delete finished job %s/%s: %w", plan.namespace, plan.name, err)
	}
	return failure
}

func suffix(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}
