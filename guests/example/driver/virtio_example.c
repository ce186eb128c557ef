// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio-example: what is written to /dev/virtio-example goes to the device, and its answer is read
 * from there. /sys/class/misc/virtio-example shows the device's configuration space.
 */
#include <linux/idr.h>
#include <linux/kref.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>

/* Those that the virtio specification leaves out are free for experiments. */
#define VIRTIO_EXAMPLE_ID 42

/* The driver may write the field mode. */
#define VIRTIO_EXAMPLE_F_MODE 0

struct virtio_example_config {
	__le32 max_length;	/* bytes of the longest request */
	__le32 served;		/* requests so far; the device changes it */
	__le32 mode;		/* what is done with a text: with VIRTIO_EXAMPLE_F_MODE */
} __packed;

struct virtio_example {
	struct virtio_device *vdev;
	struct miscdevice misc;
	struct kref kref;
	int id;
	char name[32];
	u32 max_length;
	unsigned int resets;
	/* Readers and writers, one at a time. */
	struct mutex user;
	/* The queue comes and goes: probe, reset, suspend, remove. */
	struct mutex life;
	struct work_struct config_work;
	wait_queue_head_t changed;
	/* Guards all below. */
	spinlock_t lock;
	struct virtqueue *vq;	/* NULL while the device is being reset */
	bool gone;		/* for ever */
	bool busy;		/* the buffers are the device's */
	int error;
	u32 room;
	u32 length;
	u8 *request;
	u8 *answer;
};

static DEFINE_IDA(virtio_example_ids);

static void virtio_example_free(struct kref *kref)
{
	struct virtio_example *ex = container_of(kref, struct virtio_example, kref);

	ida_free(&virtio_example_ids, ex->id);
	kfree(ex->request);
	kfree(ex->answer);
	kfree(ex);
}

/* The device has used a buffer. */
static void virtio_example_used(struct virtqueue *vq)
{
	struct virtio_example *ex = vq->vdev->priv;
	unsigned long flags;
	u32 length;

	spin_lock_irqsave(&ex->lock, flags);
	if (ex->vq && virtqueue_get_buf(vq, &length)) {
		/* A device may say anything. */
		ex->length = min(length, ex->room);
		ex->error = 0;
		ex->busy = false;
		wake_up_interruptible(&ex->changed);
	}
	spin_unlock_irqrestore(&ex->lock, flags);
}

/* After FEATURES_OK: the queue, then DRIVER_OK. */
static int virtio_example_start(struct virtio_example *ex)
{
	struct virtqueue *vq;

	vq = virtio_find_single_vq(ex->vdev, virtio_example_used, "requestq");
	if (IS_ERR(vq))
		return PTR_ERR(vq);
	virtio_device_ready(ex->vdev);
	spin_lock_irq(&ex->lock);
	ex->vq = vq;
	spin_unlock_irq(&ex->lock);
	wake_up_interruptible(&ex->changed);
	return 0;
}

/* Resets the device. A request that it had fails. */
static void virtio_example_stop(struct virtio_example *ex)
{
	struct virtqueue *vq;

	spin_lock_irq(&ex->lock);
	vq = ex->vq;
	ex->vq = NULL;
	spin_unlock_irq(&ex->lock);
	virtio_reset_device(ex->vdev);
	if (vq) {
		virtqueue_detach_unused_buf(vq);
		ex->vdev->config->del_vqs(ex->vdev);
	}
	spin_lock_irq(&ex->lock);
	if (ex->busy)
		ex->error = -EIO;
	ex->busy = false;
	spin_unlock_irq(&ex->lock);
	wake_up_interruptible(&ex->changed);
}

/* The configuration space changed, or the device asks for a reset. */
static void virtio_example_config_work(struct work_struct *work)
{
	struct virtio_example *ex = container_of(work, struct virtio_example, config_work);
	struct virtio_device *vdev = ex->vdev;

	mutex_lock(&ex->life);
	if (ex->gone)
		goto out;
	if (ex->vq && vdev->config->get_status(vdev) & VIRTIO_CONFIG_S_NEEDS_RESET) {
		virtio_example_stop(ex);
		ex->resets++;
		/* From ACKNOWLEDGE on; calls our restore. */
		if (virtio_device_restore(vdev))
			dev_err(&vdev->dev, "the device did not come back\n");
		else
			dev_info(&vdev->dev, "the device was reset, as it asked\n");
		sysfs_notify(&ex->misc.this_device->kobj, NULL, "resets");
	}
	sysfs_notify(&ex->misc.this_device->kobj, NULL, "served");
out:
	mutex_unlock(&ex->life);
}

/* In interrupt context. */
static void virtio_example_config_changed(struct virtio_device *vdev)
{
	struct virtio_example *ex = vdev->priv;

	schedule_work(&ex->config_work);
}

static int virtio_example_open(struct inode *inode, struct file *file)
{
	struct virtio_example *ex = container_of(file->private_data, struct virtio_example, misc);

	kref_get(&ex->kref);
	file->private_data = ex;
	return 0;
}

static int virtio_example_release(struct inode *inode, struct file *file)
{
	struct virtio_example *ex = file->private_data;

	kref_put(&ex->kref, virtio_example_free);
	return 0;
}

static bool virtio_example_idle(struct virtio_example *ex)
{
	bool idle;

	spin_lock_irq(&ex->lock);
	idle = !ex->busy && (ex->vq || ex->gone);
	spin_unlock_irq(&ex->lock);
	return idle;
}

/* Hands the buffers to the device. */
static int virtio_example_send(struct virtio_example *ex, size_t count)
{
	struct scatterlist out, in, *sgs[] = { &out, &in };
	int err = -ENODEV;

	sg_init_one(&out, ex->request, count);
	sg_init_one(&in, ex->answer, count);
	spin_lock_irq(&ex->lock);
	if (ex->vq)
		err = virtqueue_add_sgs(ex->vq, sgs, 1, 1, ex, GFP_ATOMIC);
	if (!err) {
		ex->busy = true;
		ex->room = count;
		ex->length = 0;
		virtqueue_kick(ex->vq);
	}
	spin_unlock_irq(&ex->lock);
	return err;
}

/* Returns when the device has answered; reading starts over then. */
static ssize_t virtio_example_write(struct file *file, const char __user *text, size_t count,
				    loff_t *pos)
{
	struct virtio_example *ex = file->private_data;
	int err;

	if (count == 0)
		return 0;
	if (count > ex->max_length)
		return -EMSGSIZE;
	err = mutex_lock_interruptible(&ex->user);
	if (err)
		return err;
	/* A request whose writer did not wait is still the device's. */
	err = wait_event_interruptible(ex->changed, virtio_example_idle(ex));
	if (err)
		goto out;
	if (copy_from_user(ex->request, text, count)) {
		err = -EFAULT;
		goto out;
	}
	err = virtio_example_send(ex, count);
	if (err)
		goto out;
	/* Not to be restarted: the device has the request. */
	if (wait_event_interruptible(ex->changed, virtio_example_idle(ex)))
		err = -EINTR;
	else
		err = ex->error;
	*pos = 0;
out:
	mutex_unlock(&ex->user);
	return err ? err : count;
}

static ssize_t virtio_example_read(struct file *file, char __user *text, size_t count, loff_t *pos)
{
	struct virtio_example *ex = file->private_data;
	ssize_t ret;

	ret = mutex_lock_interruptible(&ex->user);
	if (ret)
		return ret;
	ret = simple_read_from_buffer(text, count, pos, ex->answer, ex->length);
	mutex_unlock(&ex->user);
	return ret;
}

static const struct file_operations virtio_example_fops = {
	.owner = THIS_MODULE,
	.open = virtio_example_open,
	.release = virtio_example_release,
	.read = virtio_example_read,
	.write = virtio_example_write,
};

static struct virtio_example *to_example(struct device *dev)
{
	struct miscdevice *misc = dev_get_drvdata(dev);

	return container_of(misc, struct virtio_example, misc);
}

static ssize_t max_length_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", to_example(dev)->max_length);
}
static DEVICE_ATTR_RO(max_length);

static ssize_t resets_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", to_example(dev)->resets);
}
static DEVICE_ATTR_RO(resets);

/* poll(2) says when it changed. */
static ssize_t served_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	u32 served;

	virtio_cread_le(to_example(dev)->vdev, struct virtio_example_config, served, &served);
	return sysfs_emit(buf, "%u\n", served);
}
static DEVICE_ATTR_RO(served);

static ssize_t mode_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	u32 mode;

	virtio_cread_le(to_example(dev)->vdev, struct virtio_example_config, mode, &mode);
	return sysfs_emit(buf, "%u\n", mode);
}

static ssize_t mode_store(struct device *dev, struct device_attribute *attr, const char *buf,
			  size_t count)
{
	u32 mode;
	int err = kstrtou32(buf, 0, &mode);

	if (err)
		return err;
	virtio_cwrite_le(to_example(dev)->vdev, struct virtio_example_config, mode, &mode);
	return count;
}
static DEVICE_ATTR_RW(mode);

static struct attribute *virtio_example_attrs[] = {
	&dev_attr_max_length.attr,
	&dev_attr_served.attr,
	&dev_attr_mode.attr,
	&dev_attr_resets.attr,
	NULL,
};

static umode_t virtio_example_visible(struct kobject *kobj, struct attribute *attr, int index)
{
	struct virtio_example *ex = to_example(kobj_to_dev(kobj));

	if (attr == &dev_attr_mode.attr && !virtio_has_feature(ex->vdev, VIRTIO_EXAMPLE_F_MODE))
		return 0;
	return attr->mode;
}

static const struct attribute_group virtio_example_group = {
	.attrs = virtio_example_attrs,
	.is_visible = virtio_example_visible,
};
__ATTRIBUTE_GROUPS(virtio_example);

static int virtio_example_register(struct virtio_example *ex)
{
	if (ex->id == 0)
		strscpy(ex->name, "virtio-example", sizeof(ex->name));
	else
		snprintf(ex->name, sizeof(ex->name), "virtio-example%d", ex->id);
	ex->misc.minor = MISC_DYNAMIC_MINOR;
	ex->misc.name = ex->name;
	ex->misc.fops = &virtio_example_fops;
	ex->misc.parent = &ex->vdev->dev;
	ex->misc.groups = virtio_example_groups;
	return misc_register(&ex->misc);
}

static int virtio_example_probe(struct virtio_device *vdev)
{
	struct virtio_example *ex;
	int err;

	ex = kzalloc(sizeof(*ex), GFP_KERNEL);
	if (!ex)
		return -ENOMEM;
	ex->id = ida_alloc(&virtio_example_ids, GFP_KERNEL);
	if (ex->id < 0) {
		err = ex->id;
		kfree(ex);
		return err;
	}
	kref_init(&ex->kref);
	ex->vdev = vdev;
	vdev->priv = ex;
	mutex_init(&ex->user);
	mutex_init(&ex->life);
	spin_lock_init(&ex->lock);
	init_waitqueue_head(&ex->changed);
	INIT_WORK(&ex->config_work, virtio_example_config_work);
	virtio_cread_le(vdev, struct virtio_example_config, max_length, &ex->max_length);
	ex->max_length = clamp_t(u32, ex->max_length, 1, PAGE_SIZE);
	err = -ENOMEM;
	ex->request = kzalloc(ex->max_length, GFP_KERNEL);
	ex->answer = kzalloc(ex->max_length, GFP_KERNEL);
	if (!ex->request || !ex->answer)
		goto put;
	err = virtio_example_start(ex);
	if (err)
		goto put;
	err = virtio_example_register(ex);
	if (err)
		goto stop;
	return 0;
stop:
	virtio_example_stop(ex);
put:
	kref_put(&ex->kref, virtio_example_free);
	return err;
}

static void virtio_example_remove(struct virtio_device *vdev)
{
	struct virtio_example *ex = vdev->priv;

	mutex_lock(&ex->life);
	spin_lock_irq(&ex->lock);
	ex->gone = true;
	spin_unlock_irq(&ex->lock);
	mutex_unlock(&ex->life);
	misc_deregister(&ex->misc);
	virtio_example_stop(ex);
	cancel_work_sync(&ex->config_work);
	/* Files that are still open hold the rest. */
	kref_put(&ex->kref, virtio_example_free);
}

static int virtio_example_freeze(struct virtio_device *vdev)
{
	struct virtio_example *ex = vdev->priv;

	mutex_lock(&ex->life);
	virtio_example_stop(ex);
	mutex_unlock(&ex->life);
	return 0;
}

static int virtio_example_restore(struct virtio_device *vdev)
{
	return virtio_example_start(vdev->priv);
}

static const unsigned int virtio_example_features[] = { VIRTIO_EXAMPLE_F_MODE };

static const struct virtio_device_id virtio_example_id_table[] = {
	{ VIRTIO_EXAMPLE_ID, VIRTIO_DEV_ANY_ID },
	{ 0 },
};
MODULE_DEVICE_TABLE(virtio, virtio_example_id_table);

static struct virtio_driver virtio_example_driver = {
	.driver.name = KBUILD_MODNAME,
	.feature_table = virtio_example_features,
	.feature_table_size = ARRAY_SIZE(virtio_example_features),
	.id_table = virtio_example_id_table,
	.probe = virtio_example_probe,
	.remove = virtio_example_remove,
	.config_changed = virtio_example_config_changed,
	.freeze = virtio_example_freeze,
	.restore = virtio_example_restore,
};
module_virtio_driver(virtio_example_driver);

MODULE_DESCRIPTION("Driver of the virtio-example device");
MODULE_LICENSE("GPL");
