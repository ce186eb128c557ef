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
	struct virtio_example *priv = container_of(kref, struct virtio_example, kref);

	ida_free(&virtio_example_ids, priv->id);
	kfree(priv->request);
	kfree(priv->answer);
	kfree(priv);
}

/* The device has used a buffer. */
static void virtio_example_used(struct virtqueue *vq)
{
	struct virtio_example *priv = vq->vdev->priv;
	unsigned long flags;
	u32 length;

	spin_lock_irqsave(&priv->lock, flags);
	if (priv->vq && virtqueue_get_buf(vq, &length)) {
		/* A device may say anything. */
		priv->length = min(length, priv->room);
		priv->error = 0;
		priv->busy = false;
		wake_up_interruptible(&priv->changed);
	}
	spin_unlock_irqrestore(&priv->lock, flags);
}

/* After FEATURES_OK: the queue, then DRIVER_OK. */
static int virtio_example_start(struct virtio_example *priv)
{
	struct virtqueue *vq;

	vq = virtio_find_single_vq(priv->vdev, virtio_example_used, "requestq");
	if (IS_ERR(vq))
		return PTR_ERR(vq);
	virtio_device_ready(priv->vdev);
	spin_lock_irq(&priv->lock);
	priv->vq = vq;
	spin_unlock_irq(&priv->lock);
	wake_up_interruptible(&priv->changed);
	return 0;
}

/* Resets the device. A request that it had fails. */
static void virtio_example_stop(struct virtio_example *priv)
{
	struct virtqueue *vq;

	spin_lock_irq(&priv->lock);
	vq = priv->vq;
	priv->vq = NULL;
	spin_unlock_irq(&priv->lock);
	virtio_reset_device(priv->vdev);
	if (vq) {
		virtqueue_detach_unused_buf(vq);
		priv->vdev->config->del_vqs(priv->vdev);
	}
	spin_lock_irq(&priv->lock);
	if (priv->busy)
		priv->error = -EIO;
	priv->busy = false;
	spin_unlock_irq(&priv->lock);
	wake_up_interruptible(&priv->changed);
}

/* The configuration space changed, or the device asks for a reset. */
static void virtio_example_config_work(struct work_struct *work)
{
	struct virtio_example *priv = container_of(work, struct virtio_example, config_work);
	struct virtio_device *vdev = priv->vdev;

	mutex_lock(&priv->life);
	if (priv->gone)
		goto out;
	if (priv->vq && vdev->config->get_status(vdev) & VIRTIO_CONFIG_S_NEEDS_RESET) {
		virtio_example_stop(priv);
		priv->resets++;
		/* From ACKNOWLEDGE on; calls our restore. */
		if (virtio_device_restore(vdev))
			dev_err(&vdev->dev, "the device did not come back\n");
		else
			dev_info(&vdev->dev, "the device was reset, as it asked\n");
		sysfs_notify(&priv->misc.this_device->kobj, NULL, "resets");
	}
	sysfs_notify(&priv->misc.this_device->kobj, NULL, "served");
out:
	mutex_unlock(&priv->life);
}

/* In interrupt context. */
static void virtio_example_config_changed(struct virtio_device *vdev)
{
	struct virtio_example *priv = vdev->priv;

	schedule_work(&priv->config_work);
}

static int virtio_example_open(struct inode *inode, struct file *file)
{
	struct virtio_example *priv = container_of(file->private_data, struct virtio_example, misc);

	kref_get(&priv->kref);
	file->private_data = priv;
	return 0;
}

static int virtio_example_release(struct inode *inode, struct file *file)
{
	struct virtio_example *priv = file->private_data;

	kref_put(&priv->kref, virtio_example_free);
	return 0;
}

static bool virtio_example_idle(struct virtio_example *priv)
{
	bool idle;

	spin_lock_irq(&priv->lock);
	idle = !priv->busy && (priv->vq || priv->gone);
	spin_unlock_irq(&priv->lock);
	return idle;
}

/* Hands the buffers to the device. */
static int virtio_example_send(struct virtio_example *priv, size_t count)
{
	struct scatterlist out, in, *sgs[] = { &out, &in };
	int err = -ENODEV;

	sg_init_one(&out, priv->request, count);
	sg_init_one(&in, priv->answer, count);
	spin_lock_irq(&priv->lock);
	if (priv->vq)
		err = virtqueue_add_sgs(priv->vq, sgs, 1, 1, priv, GFP_ATOMIC);
	if (!err) {
		priv->busy = true;
		priv->room = count;
		priv->length = 0;
		virtqueue_kick(priv->vq);
	}
	spin_unlock_irq(&priv->lock);
	return err;
}

/* Returns when the device has answered; reading starts over then. */
static ssize_t virtio_example_write(struct file *file, const char __user *text, size_t count,
				    loff_t *pos)
{
	struct virtio_example *priv = file->private_data;
	int err;

	if (count == 0)
		return 0;
	if (count > priv->max_length)
		return -EMSGSIZE;
	err = mutex_lock_interruptible(&priv->user);
	if (err)
		return err;
	/* A request whose writer did not wait is still the device's. */
	err = wait_event_interruptible(priv->changed, virtio_example_idle(priv));
	if (err)
		goto out;
	if (copy_from_user(priv->request, text, count)) {
		err = -EFAULT;
		goto out;
	}
	err = virtio_example_send(priv, count);
	if (err)
		goto out;
	/* Not to be restarted: the device has the request. */
	if (wait_event_interruptible(priv->changed, virtio_example_idle(priv)))
		err = -EINTR;
	else
		err = priv->error;
	*pos = 0;
out:
	mutex_unlock(&priv->user);
	return err ? err : count;
}

static ssize_t virtio_example_read(struct file *file, char __user *text, size_t count, loff_t *pos)
{
	struct virtio_example *priv = file->private_data;
	ssize_t ret;

	ret = mutex_lock_interruptible(&priv->user);
	if (ret)
		return ret;
	ret = simple_read_from_buffer(text, count, pos, priv->answer, priv->length);
	mutex_unlock(&priv->user);
	return ret;
}

static const struct file_operations virtio_example_fops = {
	.owner = THIS_MODULE,
	.open = virtio_example_open,
	.release = virtio_example_release,
	.read = virtio_example_read,
	.write = virtio_example_write,
};

static struct virtio_example *virtio_example_of(struct device *dev)
{
	struct miscdevice *misc = dev_get_drvdata(dev);

	return container_of(misc, struct virtio_example, misc);
}

static ssize_t max_length_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", virtio_example_of(dev)->max_length);
}
static DEVICE_ATTR_RO(max_length);

static ssize_t resets_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", virtio_example_of(dev)->resets);
}
static DEVICE_ATTR_RO(resets);

/* poll(2) says when it changed. */
static ssize_t served_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	u32 served;

	virtio_cread_le(virtio_example_of(dev)->vdev, struct virtio_example_config, served, &served);
	return sysfs_emit(buf, "%u\n", served);
}
static DEVICE_ATTR_RO(served);

static ssize_t mode_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	u32 mode;

	virtio_cread_le(virtio_example_of(dev)->vdev, struct virtio_example_config, mode, &mode);
	return sysfs_emit(buf, "%u\n", mode);
}

static ssize_t mode_store(struct device *dev, struct device_attribute *attr, const char *buf,
			  size_t count)
{
	u32 mode;
	int err = kstrtou32(buf, 0, &mode);

	if (err)
		return err;
	virtio_cwrite_le(virtio_example_of(dev)->vdev, struct virtio_example_config, mode, &mode);
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
	struct virtio_example *priv = virtio_example_of(kobj_to_dev(kobj));

	if (attr == &dev_attr_mode.attr && !virtio_has_feature(priv->vdev, VIRTIO_EXAMPLE_F_MODE))
		return 0;
	return attr->mode;
}

static const struct attribute_group virtio_example_group = {
	.attrs = virtio_example_attrs,
	.is_visible = virtio_example_visible,
};
__ATTRIBUTE_GROUPS(virtio_example);

static int virtio_example_register(struct virtio_example *priv)
{
	if (priv->id == 0)
		strscpy(priv->name, "virtio-example", sizeof(priv->name));
	else
		snprintf(priv->name, sizeof(priv->name), "virtio-example%d", priv->id);
	priv->misc.minor = MISC_DYNAMIC_MINOR;
	priv->misc.name = priv->name;
	priv->misc.fops = &virtio_example_fops;
	priv->misc.parent = &priv->vdev->dev;
	priv->misc.groups = virtio_example_groups;
	return misc_register(&priv->misc);
}

static int virtio_example_probe(struct virtio_device *vdev)
{
	struct virtio_example *priv;
	int err;

	priv = kzalloc(sizeof(*priv), GFP_KERNEL);
	if (!priv)
		return -ENOMEM;
	priv->id = ida_alloc(&virtio_example_ids, GFP_KERNEL);
	if (priv->id < 0) {
		err = priv->id;
		kfree(priv);
		return err;
	}
	kref_init(&priv->kref);
	priv->vdev = vdev;
	vdev->priv = priv;
	mutex_init(&priv->user);
	mutex_init(&priv->life);
	spin_lock_init(&priv->lock);
	init_waitqueue_head(&priv->changed);
	INIT_WORK(&priv->config_work, virtio_example_config_work);
	virtio_cread_le(vdev, struct virtio_example_config, max_length, &priv->max_length);
	priv->max_length = clamp_t(u32, priv->max_length, 1, PAGE_SIZE);
	err = -ENOMEM;
	priv->request = kzalloc(priv->max_length, GFP_KERNEL);
	priv->answer = kzalloc(priv->max_length, GFP_KERNEL);
	if (!priv->request || !priv->answer)
		goto put;
	err = virtio_example_start(priv);
	if (err)
		goto put;
	err = virtio_example_register(priv);
	if (err)
		goto stop;
	return 0;
stop:
	virtio_example_stop(priv);
put:
	kref_put(&priv->kref, virtio_example_free);
	return err;
}

static void virtio_example_remove(struct virtio_device *vdev)
{
	struct virtio_example *priv = vdev->priv;

	mutex_lock(&priv->life);
	spin_lock_irq(&priv->lock);
	priv->gone = true;
	spin_unlock_irq(&priv->lock);
	mutex_unlock(&priv->life);
	misc_deregister(&priv->misc);
	virtio_example_stop(priv);
	cancel_work_sync(&priv->config_work);
	/* Files that are still open hold the rest. */
	kref_put(&priv->kref, virtio_example_free);
}

static int virtio_example_freeze(struct virtio_device *vdev)
{
	struct virtio_example *priv = vdev->priv;

	mutex_lock(&priv->life);
	virtio_example_stop(priv);
	mutex_unlock(&priv->life);
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
